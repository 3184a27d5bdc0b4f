"""The one exception that the command line turns into a single line for the user."""


class UserError(ValueError):
    """Something the user can put right: what is wrong, the value, and what to do.

    option: the name of the option that would put it right, which a program knows by its flag.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option

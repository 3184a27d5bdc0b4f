"""The one exception that the command line turns into a single line for the user."""


class UserError(ValueError):
    """Something the user can put right: says what is wrong, the value, and what to do.

    `option` is the name of the option whose value puts it right, where there is one. A program that
    has a flag of this name adds the flag to the message.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option

"""The one exception that the command line turns into a single line for the user."""


class UserError(ValueError):
    """Something the user can put right: says what is wrong, the value, and what to do."""

"""The one exception that the command line turns into a single line for the user, and its lists."""

from collections.abc import Sequence

MOST_SHOWN = 20  # names in a line; of more, half as many


class UserError(ValueError):
    """Something the user can put right: says what is wrong, the value, and what to do.

    `option` is the name of the option whose value puts it right, where there is one. A program that
    has a flag of this name adds the flag to the message.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


def listed(names: Sequence[str]) -> str:
    """Names in one line that any terminal can show; of many the first ones, and how many more."""
    shown = [name if name.isprintable() else ascii(name) for name in names]
    if len(shown) <= MOST_SHOWN:
        return ", ".join(shown)
    first = shown[: MOST_SHOWN // 2]
    return ", ".join(first) + f" and {len(shown) - len(first):,} more"

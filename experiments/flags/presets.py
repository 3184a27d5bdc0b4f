"""--preset: a name for the values of several flags."""

from collections.abc import Sequence
from typing import Any

from absl import flags

flags.disclaim_key_flags()  # what is defined here belongs to the program that asked for it


class PresetFlag(flags.EnumFlag):
    """--preset: a name that stands for values of other flags."""

    def __init__(self, presets: dict[str, dict[str, Any]]) -> None:
        self.presets = presets
        help_text = "a set of flags' values; a flag given besides keeps its own"
        super().__init__("preset", None, help_text, list(presets))

    def fill(self, argv: Sequence[str]) -> None:
        """Sets the chosen preset's flags, but not those that `argv` itself gives a value."""
        given = {arg.lstrip("-").partition("=")[0] for arg in argv[1:]}
        for name, value in (self.presets[self.value] if self.value else {}).items():
            if not given & {name, f"no{name}"}:
                setattr(flags.FLAGS, name, value)


def define_preset(**presets: dict[str, Any]) -> None:
    """The flag --preset=NAME, which stands for the flags that NAME's mapping gives values.

    It overrules a flagfile and is overruled by what is given besides, in whatever order:
    `define_preset(smoke={"steps": 20})`, then --flagfile=F --preset=smoke --batch_size=8.
    A program that has another's flags has its presets too, and adds to them.
    """
    defined = chosen()
    if defined is None:
        flags.DEFINE_flag(PresetFlag(presets))
    else:
        for name, values in presets.items():
            defined.presets[name].update(values)


def chosen() -> PresetFlag | None:
    if "preset" not in flags.FLAGS:
        return None
    flag = flags.FLAGS["preset"]
    return flag if isinstance(flag, PresetFlag) else None

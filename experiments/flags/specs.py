"""Flags that hold specs such as `ddim(eta=0)`, and flags as text."""

from collections.abc import Sequence
from types import ModuleType

from absl import flags

import diffjax.spacings
from diffjax import spec
from diffjax.samplers.base import Sampler
from diffjax.spacings.base import Spacing

flags.disclaim_key_flags()  # what is defined here belongs to the program that asked for it


class SpecParser(flags.ArgumentParser):
    """Takes name or name(option=value, ...) and refuses what `package` cannot build."""

    def __init__(self, package: ModuleType) -> None:
        super().__init__()
        self._package = package
        self.syntactic_help = "one of: " + ", ".join(spec.names(package))

    def parse(self, argument: str) -> str:
        spec.build(argument, self._package)
        return argument

    def flag_type(self) -> str:
        return "spec"


def define_spec(
    name: str, default: str | None, package: ModuleType, help_text: str
) -> flags.FlagHolder[str]:
    """A flag that holds a spec of `package`."""
    return flags.DEFINE(
        SpecParser(package), name, default, help_text, serializer=flags.ArgumentSerializer()
    )


def define_specs(
    name: str, package: ModuleType, help_text: str
) -> flags.FlagHolder[list[str] | None]:
    """A flag that may be given more than once and holds specs of `package`; None by default."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    return flags.DEFINE_multi(SpecParser(package), serializer, name, None, help_text)


def spacing_of(text: str | None, sampler: Sampler) -> Spacing:
    """The spacing that a flag names, or the sampler's own."""
    return sampler.spacing if text is None else spec.build(text, diffjax.spacings)


def flag_text(names: Sequence[str], header: str) -> str:
    """The flags `names` as a flagfile."""
    lines = [f"# {header}"]
    for name in names:
        flag = flags.FLAGS[name]
        if flag.value is not None:
            lines.append(flag.serialize())
    return "\n".join(lines) + "\n"

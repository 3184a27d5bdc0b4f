"""What the programs share: spec flags, and errors in one line instead of a stack trace."""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import jax
import platformdirs
from absl import app, flags, logging

import diffjax.spacings
from diffjax import spec
from diffjax.errors import UserError
from diffjax.samplers.base import Sampler
from diffjax.spacings.base import Spacing

CACHE_BYTES = 2 << 30  # what was not used for longest is deleted first

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
    defined = _preset()
    if defined is None:
        flags.DEFINE_flag(PresetFlag(presets))
    else:
        for name, values in presets.items():
            defined.presets[name].update(values)


def _preset() -> PresetFlag | None:
    if "preset" not in flags.FLAGS:
        return None
    flag = flags.FLAGS["preset"]
    return flag if isinstance(flag, PresetFlag) else None


def spacing_of(text: str | None, sampler: Sampler) -> Spacing:
    """The spacing that a flag names, or the sampler's own."""
    return sampler.spacing if text is None else spec.build(text, diffjax.spacings)


def run(main: Callable[[], None]) -> None:
    """Parses the flags and runs `main`; a user's mistake ends it in one line, exit 1 or 2."""

    def guarded(argv: Sequence[str]) -> int:
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected {argv[1]!r}: flags are written --name=value")
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # as of `| head`: who read this has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            if error.errno is None:
                raise
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror}: make room or mend it", file=sys.stderr)
            return 1
        return 0

    keep_compiled()
    # Orbax logs what it raises too, with the stack trace of each of its threads.
    logging.set_verbosity(logging.FATAL)
    app.run(guarded, flags_parser=_parse)


def keep_compiled() -> None:
    """Programs compiled once are found again at the next start, in the user's cache folder.

    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    settings: dict[str, str | float] = {
        # A start compiles a hundred small programs too, which together take as long as the large.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    folder = platformdirs.user_cache_path("diffjax") / "jax"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and _can_write(folder):
        settings["jax_compilation_cache_dir"] = str(folder)
        settings["jax_compilation_cache_max_size"] = CACHE_BYTES
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _can_write(folder: pathlib.Path) -> bool:
    """Whether the folder is there, made if need be: else JAX would warn at each program."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = app.parse_flags_with_usage(argv) if _wants_help(argv) else flags.FLAGS(argv)
        if (preset := _preset()) is not None:
            preset.fill(argv)
        return rest
    except (flags.Error, UserError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


def _wants_help(argv: Sequence[str]) -> bool:
    return any(arg.lstrip("-").startswith("help") for arg in argv[1:])


def flag_text(names: Sequence[str], header: str) -> str:
    """The flags `names` as a flagfile."""
    lines = [f"# {header}"]
    for name in names:
        flag = flags.FLAGS[name]
        if flag.value is not None:
            lines.append(flag.serialize())
    return "\n".join(lines) + "\n"

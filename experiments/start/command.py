"""A program from its command line to its exit status: errors in one line, no stack trace."""

import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

import jax
import platformdirs
from absl import app, flags, logging

from diffjax.errors import UserError
from experiments.flags import presets

CACHE_BYTES = 2 << 30  # what was not used for longest is deleted first


def run(main: Callable[[], None]) -> None:
    """Parses the flags and runs `main`; a user's mistake ends it in one line, exit 1 or 2."""
    open_streams()
    if sys.flags.optimize:
        # Linen takes off what intercepts its calls in an assert, which -O leaves out.
        print("error: Flax does not work under python -O: unset PYTHONOPTIMIZE", file=sys.stderr)
        sys.exit(2)

    def guarded(argv: Sequence[str]) -> int:
        try:
            if len(argv) > 1:
                raise UserError(f"unexpected {argv[1]!r}: flags are written --name=value")
            main()
        except UserError as error:
            print(f"error: {said(error)}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # as of `| head`: who read this has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (RuntimeError, AssertionError) as error:
            if not _lacks_backend(error):
                raise
            asked = os.environ.get("JAX_PLATFORMS", "")
            print(
                f"error: JAX finds no device for JAX_PLATFORMS={asked!r}: install the plugin of "
                "that platform, or unset the variable",
                file=sys.stderr,
            )
            return 1
        except OSError as error:
            if error.errno is None:
                raise
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror}: make room or mend it", file=sys.stderr)
            return 1
        return 0

    keep_compiled()
    # With the numbers of another generator images would depend on the batch size.
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    # Orbax logs what it raises too, with the stack trace of each of its threads.
    logging.set_verbosity(logging.FATAL)
    app.run(guarded, flags_parser=_parse)


def open_streams() -> None:
    """Makes the streams take every text: closed ones lead nowhere, strange letters are escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for the whole process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _lacks_backend(error: BaseException) -> bool:
    """Whether JAX could not start on the platform that it was told of."""
    frame, last = error.__traceback__, ""
    while frame is not None:
        last, frame = frame.tb_frame.f_code.co_filename, frame.tb_next
    return "Unable to initialize backend" in str(error) or last.endswith("xla_bridge.py")


def said(error: UserError) -> str:
    """The error's message, and the flag that puts it right where the message does not name it."""
    message, option = str(error), error.option
    if option is None or option not in flags.FLAGS or re.search(rf"--{option}\b", message):
        return message
    return f"{message} (--{option})"


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
        if (preset := presets.chosen()) is not None:
            preset.fill(argv)
        return rest
    except (flags.Error, UserError) as error:
        message = said(error) if isinstance(error, UserError) else str(error)
        print("error: " + " ".join(message.split()), file=sys.stderr)
        sys.exit(2)


def _wants_help(argv: Sequence[str]) -> bool:
    return any(arg.lstrip("-").startswith("help") for arg in argv[1:])

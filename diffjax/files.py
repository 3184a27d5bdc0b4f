"""Files and folders that appear whole or not at all."""

import os
import pathlib
import shutil
from collections.abc import Callable

PART = ".part"  # what the name of an unfinished file or folder ends in


def write_whole(path: str | os.PathLike[str], write: Callable[[pathlib.Path], object]) -> None:
    """Lets `write` fill a file beside `path`, which then replaces `path`.

    The file is on the disk before it is renamed, so a crash leaves either the old file or the new
    one. Raises what `write` raises, and OSError; `path` is then as it was.
    """
    path = pathlib.Path(path)
    part = path.with_name(path.name + PART)
    try:
        write(part)
        with part.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # on a full disk it would take the room to go on


def write_folder(path: str | os.PathLike[str], fill: Callable[[pathlib.Path], object]) -> None:
    """Lets `fill` fill a folder beside `path`, which then takes that name. Nothing may have it yet.

    Raises what `fill` raises, and OSError; nothing is left then.
    """
    path = pathlib.Path(path)
    part = path.with_name(path.name + PART)
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        part.mkdir(parents=True)
        fill(part)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes the text in UTF-8, whole or not at all; a name's other bytes stay. Raises OSError."""
    write_whole(path, lambda part: part.write_text(text, "utf-8", errors="surrogateescape"))

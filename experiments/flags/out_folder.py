"""Folders that a flag names."""

import pathlib

from absl import flags

from diffjax.errors import UserError

flags.disclaim_key_flags()  # what is defined here belongs to the program that asked for it


def made(out: pathlib.Path) -> pathlib.Path:
    """The folder of --out, made. Raises UserError where it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write --out={out}: {error.strerror}") from error
    return out

"""evaluation.json, where each metric writes what it finds and leaves what others have found."""

import contextlib
import json
import os
import pathlib
import sys
from typing import Any

from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.run_report import write_report
from diffjax.training.run import RunFolder


def read_saved(path: pathlib.Path) -> dict[str, Any]:
    """What earlier calls have found. Raises UserError for a file that cannot be read."""
    try:
        saved = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): move it away") from error
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds no figures of experiments.evaluate: move it away")
    return saved


def warn_if_read_only(path: pathlib.Path) -> None:
    """Tells before anything is measured that nothing can be written."""
    if not os.access(path.parent, os.W_OK):
        print(f"{path.parent} cannot be written: figures are printed alone", file=sys.stderr)


def rewrite(folder: RunFolder) -> None:
    """The run's page once more, with what was found; one that cannot be written stays as it is."""
    with contextlib.suppress(UserError):
        write_report(folder)


def save(path: pathlib.Path, values: dict[str, Any]) -> str:
    """Writes the values, and says where; what another metric has found before stays.

    Figures took minutes to measure and are still to be printed: a full disk does not stop that.
    """
    text = json.dumps({**read_saved(path), **values}, indent=2) + "\n"
    try:
        write_text(path, text)
    except OSError as error:
        return f"not saved, as {path} cannot be written ({error.strerror})"
    return f"in {path}"

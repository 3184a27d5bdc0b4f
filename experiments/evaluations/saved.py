"""evaluation.json, where each metric writes what it finds and leaves what others have found."""

import json
import pathlib
from typing import Any

from diffjax.errors import UserError
from diffjax.files import write_text


def read_saved(path: pathlib.Path) -> dict[str, Any]:
    """What earlier calls have found. Raises UserError for a file that cannot be read."""
    try:
        saved = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): move it away") from error
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds no figures of experiments.evaluate: move it away")
    return saved


def save(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes the values; what another metric has found before stays."""
    text = json.dumps({**read_saved(path), **values}, indent=2) + "\n"
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error

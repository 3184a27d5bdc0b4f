"""Texts and JSON objects in files, which people and other programs write."""

import json
from pathlib import Path

from diffjax.errors import UserError

MOST_TEXT = 2**26  # bytes: several times a large index or vocabulary


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises UserError where there is none, or more than MOST_TEXT."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TEXT + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: {error}") from error
    if len(content) > MOST_TEXT:
        raise UserError(f"{path} has more than {MOST_TEXT:,} bytes, the most for text")
    return text


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file. Raises UserError where there is none."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value

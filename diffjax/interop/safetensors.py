"""Weights in the safetensors format, as float32 arrays by name."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from diffjax.errors import UserError
from diffjax.files import write_whole

MOST_TEXT = 2**26  # bytes: several times a large index or vocabulary
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": jnp.dtype("float64"),
    "F32": jnp.dtype("float32"),
    "F16": jnp.dtype("float16"),
    "BF16": jnp.dtype("bfloat16"),  # unknown to NumPy alone, which is why the file is read here
}


def read(path: Path, unused: str = "") -> dict[str, np.ndarray]:
    """The tensors of a file, or of all files of an index `*.safetensors.index.json`, in float32.

    Those whose names match the pattern `unused` are left out. Raises UserError for a file that is
    not there, is damaged, or holds other than floats.
    """
    index = path.with_name(path.name + ".index.json")
    if not index.is_file():
        return _read_one(path, unused)
    table = read_json(index).get("weight_map")
    shards = list(table.values()) if isinstance(table, dict) else []
    if not shards or not all(map(_is_name, shards)):
        raise UserError(f"{index}: its weight_map must name files beside it")
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(shards)):
        tensors |= _read_one(path.with_name(shard), unused)
    return tensors


def _is_name(shard: object) -> bool:
    return isinstance(shard, str) and "\0" not in shard and shard == Path(shard).name != ""


def _read_one(path: Path, unused: str) -> dict[str, np.ndarray]:
    try:
        raw = deserialize(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except MemoryError as error:
        raise UserError(f"{path} is larger than this machine's memory") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): copy or download it again") from error
    tensors = {}
    for name, entry in raw:
        if re.fullmatch(unused, name):
            continue
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"{path}: {name} holds {entry['dtype']}, not one of {', '.join(DTYPES)}"
            )
        flat = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"]).astype(np.float32)
    return tensors


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


def encode(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file, with the mark that readers of torch's weights look for."""
    # ascontiguousarray would make a vector of a number.
    return save({k: np.asarray(v, order="C") for k, v in tensors.items()}, {"format": "pt"})


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all. Raises UserError where it cannot be written."""
    try:
        write_whole(path, lambda part: part.write_bytes(content))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error

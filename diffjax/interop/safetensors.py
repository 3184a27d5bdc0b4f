"""Weights in the safetensors format, as float32 arrays by name."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from diffjax.errors import UserError
from diffjax.files import write_whole
from diffjax.interop.json_files import read_json

METADATA = "__metadata__"  # the one name in a header that is no tensor's
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": jnp.dtype("float64"),
    "F32": jnp.dtype("float32"),
    "F16": jnp.dtype("float16"),
    "BF16": jnp.dtype("bfloat16"),  # unknown to NumPy alone, which is why the file is read here
}


class Entry(NamedTuple):
    """Where a tensor lies: its file, its first byte there, the type of its numbers, its shape."""

    path: Path
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """The tensor in float32. Raises UserError where it cannot be read."""
        count = self.size * self.dtype.itemsize
        try:
            raw = np.fromfile(self.path, np.uint8, count, offset=self.start)
            return raw.view(self.dtype).reshape(self.shape).astype(np.float32, copy=False)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error
        except MemoryError as error:
            raise UserError(f"{self.path} is larger than this machine's memory") from error


class Tensors(Mapping[str, np.ndarray]):
    """Tensors by name, each read from its file when it is asked for: never two at a time."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        return self._entries[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def read(path: Path, unused: str = "") -> dict[str, np.ndarray]:
    """The tensors of a file, or of all files of an index, in float32; errors as in `entries`."""
    return dict(Tensors(entries(path, unused)))


def entries(path: Path, unused: str = "") -> dict[str, Entry]:
    """Where the tensors of a file lie, or of all files of an index `*.safetensors.index.json`.

    Those whose names match the pattern `unused` are left out. Raises UserError for a file that is
    not there, is damaged, or holds other than floats.
    """
    index = path.with_name(path.name + ".index.json")
    if not index.is_file():
        return _entries_of(path, unused)
    table = read_json(index).get("weight_map")
    shards = list(table.values()) if isinstance(table, dict) else []
    if not shards or not all(map(_is_name, shards)):
        raise UserError(f"{index}: its weight_map must name files beside it")
    found: dict[str, Entry] = {}
    for shard in sorted(set(shards)):
        found |= _entries_of(path.with_name(shard), unused)
    return found


def _is_name(shard: object) -> bool:
    return isinstance(shard, str) and "\0" not in shard and shard == Path(shard).name != ""


def _entries_of(path: Path, unused: str) -> dict[str, Entry]:
    start, header = _header(path)
    found = {}
    for name, entry in header.items():
        if name == METADATA or re.fullmatch(unused, name):
            continue
        if entry["dtype"] not in DTYPES:
            raise UserError(
                f"{path}: {name} holds {entry['dtype']}, not one of {', '.join(DTYPES)}"
            )
        first, _ = entry["data_offsets"]
        found[name] = Entry(path, start + first, DTYPES[entry["dtype"]], tuple(entry["shape"]))
    return found


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where a file's numbers begin, and what its header says of them, checked by the library."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            with safe_open(path, "numpy"):  # raises where header and file do not agree
                return 8 + length, json.loads(file.read(length))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): copy or download it again") from error


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

"""Data sets in the four IDX files of MNIST and those made after it (LeCun, Cortes, Burges 1998)."""

import dataclasses
import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np

from diffjax.data import images
from diffjax.data.base import ArrayRecords, Records, Split, check_any, local_folder, split_up
from diffjax.data.contents import count_classes
from diffjax.errors import UserError

__all__ = ["Idx"]

GZIP = b"\x1f\x8b"
MAX_BYTES = 2**32
UINT8 = 8  # the type code in a magic number; the files of images and labels use no other


@dataclasses.dataclass(frozen=True)
class Idx:
    """A folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the same for t10k.

    The files may be gzipped (.gz), and `.idx` may stand for `-idx`. t10k is the test split; where
    both its files are missing, every tenth training image of a class is held out. Labels of N
    classes are 0 to N - 1; the files name no classes.
    """

    path: str

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`; a damaged file is no matter of single records."""
        folder = local_folder(self.path, "path")
        if not os.path.isdir(folder):
            raise UserError(f"no folder {str(folder)!r}: idx(path=...) is one with IDX files")
        parts = {"train": _read_pair(folder, "train")}
        if _find(folder, "t10k", "images", 3) or _find(folder, "t10k", "labels", 1):
            parts["test"] = _read_pair(folder, "t10k")
        if "test" not in parts:
            pixels, labels = parts["train"]
            parts = {name: (pixels[own], labels[own]) for name, own in split_up(labels).items()}
        pixels, labels = parts[split]
        check_any(labels, split, sum(len(own) for _, own in parts.values()), repr(str(folder)))
        trained, held_out = (parts[name][1] for name in ("train", "test"))
        num_classes = 1 + int(np.concatenate([trained, held_out]).max())
        shape = images.shape(pixels.shape[1:], image_size)
        contents = count_classes(trained, held_out, num_classes)
        return ArrayRecords(pixels, labels, shape, num_classes, contents=contents)


def _read_pair(folder: pathlib.Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as NHW1 and labels as N, both uint8."""
    arrays = []
    for kind, dims in (("images", 3), ("labels", 1)):
        path = _find(folder, prefix, kind, dims)
        if path is None:
            raise UserError(
                f"no {prefix}-{kind}-idx{dims}-ubyte or {prefix}-{kind}-idx{dims}-ubyte.gz "
                f"in {str(folder)!r}: put it there"
            )
        arrays.append(_parse(path, dims))
    pixels, labels = arrays
    if len(pixels) != len(labels):
        raise UserError(
            f"{str(folder)!r} has {len(pixels)} {prefix} images but {len(labels)} labels: "
            "both files must come from the same data set"
        )
    return pixels[..., None], labels


def _find(folder: pathlib.Path, prefix: str, kind: str, dims: int) -> pathlib.Path | None:
    stems = (f"{prefix}-{kind}{separator}idx{dims}-ubyte" for separator in "-.")
    paths = (folder / (stem + suffix) for stem in stems for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _parse(path: pathlib.Path, dims: int) -> np.ndarray:
    """The uint8 array of an IDX file: two zero bytes, type, rank, big-endian sizes, then data."""
    header, data = _read(path, dims)
    magic = _magic(dims)
    if header[:4] != magic:
        raise UserError(
            f"{str(path)!r} is no IDX file of {dims} dimensions: it begins with "
            f"{header[:4].hex() or 'nothing'} and not with {magic.hex()}; replace the file"
        )
    shape = _shape(header, dims)
    size = 4 + 4 * dims + math.prod(shape)
    if not shape or len(header + data) != size:
        raise UserError(
            f"{str(path)!r} is damaged: {len(header + data)} bytes where its header says {size}; "
            "replace the file"
        )
    if not data:
        raise UserError(f"{str(path)!r} is empty: its header says {shape}; replace the file")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _magic(dims: int) -> bytes:
    return bytes((0, 0, UINT8, dims))


def _shape(header: bytes, dims: int) -> tuple[int, ...]:
    """The sizes; none where it is no whole header."""
    if len(header) < 4 + 4 * dims or header[:4] != _magic(dims):
        return ()
    return struct.unpack(f">{dims}I", header[4:])


def _read(path: pathlib.Path, dims: int) -> tuple[bytes, bytes]:
    """The header and what follows, a byte past what the header says at most.

    So a small gzipped file cannot unpack to more memory than it owns up to, or than MAX_BYTES.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.peek(2)[:2] == GZIP
            with gzip.open(raw) if zipped else raw as file:
                header = file.read(4 + 4 * dims)
                size = math.prod(_shape(header, dims))
                if size > MAX_BYTES:
                    raise OSError(f"its header says {size} bytes, and {MAX_BYTES} are the most")
                return header, file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:  # gzip raises all three
        raise UserError(f"cannot read {str(path)!r} ({error}): replace the file") from error

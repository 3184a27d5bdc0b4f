"""Arrays in NumPy's .npy and .npz files, which others wrote: read within bounds, without code."""

import contextlib
import io
import math
import os
import pathlib
import typing
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

from diffjax.errors import UserError

SUFFIX = ".npy"
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(path: str | os.PathLike[str], most: int) -> np.ndarray:
    """The array of a .npy file of at most so many bytes. Raises UserError where there is none."""
    path = pathlib.Path(path)
    with _refusing(path), path.open("rb") as file:
        return _array(file, os.fstat(file.fileno()).st_size, most)


def read_npz(
    path: str | os.PathLike[str], most: int, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """The wanted arrays of a .npz file, of at most so many bytes together, by name.

    Raises UserError for a file that is not there, is damaged, holds other things, or would grow
    larger than that: a small file can hold much.
    """
    found = {}
    with _refusing(pathlib.Path(path)), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(SUFFIX)
            if name == info.filename:
                raise ValueError(f"{name} is no {SUFFIX}")
            if wanted(name):
                with archive.open(info) as file:
                    found[name] = _array(typing.cast(io.BufferedIOBase, file), info.file_size, most)
                most -= found[name].nbytes
    return found


@contextlib.contextmanager
def _refusing(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever reading raises into one line: of what type depends on where it is damaged."""
    try:
        yield
    except Exception as error:
        system = error.strerror if isinstance(error, OSError) else None
        why = " ".join(str(system or error).split()) or type(error).__name__
        raise UserError(f"cannot read {path} ({why}): copy or download it again") from error


def _array(file: io.BufferedIOBase, size: int, most: int) -> np.ndarray:
    """The array at the file's start, once its header is seen to ask for no more than there is."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise ValueError(f"it is of version {version} of the format")
    shape, by_column, dtype = HEADERS[version](file)
    needed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which can run code")
    if needed > size:
        raise ValueError(f"its header asks for {needed:,} bytes and {size:,} are there")
    if needed > most:
        raise ValueError(f"it holds {needed:,} bytes, and {most:,} are the most")
    content = file.read(needed)
    if len(content) < needed:
        raise ValueError("it is cut short")
    flat: np.ndarray = np.frombuffer(content, dtype)
    return flat.reshape(shape[::-1]).T if by_column else flat.reshape(shape)

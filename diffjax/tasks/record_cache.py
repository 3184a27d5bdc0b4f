"""Files of what is computed of a data set's records: computed once, and checked before use."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import platformdirs

from diffjax.data import Records
from diffjax.data.bad import BadRecord, Tally
from diffjax.data.base import Record
from diffjax.data.skipping import read_all
from diffjax.errors import UserError
from diffjax.files import write_whole

FOLDER = platformdirs.user_cache_path("diffjax") / "records"
SAMPLE = 64  # records that a file is compared with before it is used
Arrays = dict[str, np.ndarray]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class CacheFile:
    """A file of arrays that are computed of `records`, by one process at a time.

    kind: what the arrays are, for people. seen: what is compared of a record, as bytes; 64 of the
    records, spread over the set, are compared before the file is used.
    """

    path: pathlib.Path
    kind: str
    records: Records
    seen: Callable[[Record], bytes]
    say: Callable[[str], object] = print

    def load(self, check: Callable[[Arrays], T], compute: Callable[[], Arrays]) -> T:
        """The file's arrays as `check` returns them, computed where there is no sound file.

        check: raises ValueError or KeyError for arrays that do not fit. Raises UserError where they
        cannot be computed or written.
        """
        try:
            with _held(self.path):
                if self.path.exists():
                    try:
                        found = check(self._read())
                    except UNSOUND as error:
                        said = " ".join(str(error).split())
                        self.say(
                            f"{self.path} is not used ({said}): the {self.kind} are computed again"
                        )
                    else:
                        self.say(f"{self.kind}: {self.path}")
                        return found
                self.say(f"computing {self.kind} of {len(self.records):,} records")
                made = compute()
                self._write(made)
                return check(made)
        except OSError as error:
            raise UserError(
                f"cannot write {self.kind} to {self.path}: {error.strerror or error}: make room, "
                "or choose another folder",
                option="cache_dir",
            ) from error

    def _read(self) -> Arrays:
        with np.load(self.path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
        if str(values.pop("sample")) != self._sample():
            raise ValueError("it is of other records")
        return values

    def _write(self, arrays: Arrays) -> None:
        whole: dict[str, Any] = {**arrays, "sample": np.asarray(self._sample())}

        def write(part: pathlib.Path) -> None:
            with part.open("wb") as file:
                np.savez(file, **whole)

        write_whole(self.path, write)

    def _sample(self) -> str:
        """A digest of some records, spread over the set."""
        digest, count = hashlib.sha256(), len(self.records)
        for index in np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int)):
            try:
                digest.update(self.seen(self.records[int(index)]))
            except BadRecord:
                digest.update(b"bad")
        return digest.hexdigest()


UNSOUND = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def named(folder: pathlib.Path, kind: str, values: Sequence[Any]) -> pathlib.Path:
    """The file of one kind of arrays that depend on these values, which JSON holds."""
    name = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
    return folder / f"{kind}_{name}.npz"


def read_rows(records: Records, indices: Sequence[int], tally: Tally) -> list[Record | None]:
    """The records, None for a bad one. Raises UserError for one more than the tally allows."""
    try:
        return list(read_all(records, indices))
    except BadRecord:  # which one it is shows when they are read one by one
        return [_row(records, index, tally) for index in indices]


def images_of(rows: Sequence[Mapping[str, Any] | None], shape: tuple[int, int, int]) -> np.ndarray:
    """The records' images, zeros for one that could not be read."""
    blank = np.zeros(shape, np.float32)
    return np.stack([blank if row is None else row["image"] for row in rows])


def _row(records: Records, index: int, tally: Tally) -> Record | None:
    try:
        return records[index]
    except BadRecord as error:
        if line := tally.add(index, error):
            print(line, file=sys.stderr, flush=True)
        return None


@contextlib.contextmanager
def _held(path: pathlib.Path) -> Iterator[None]:
    """Holds a file's name, so that of several processes one computes and the others read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

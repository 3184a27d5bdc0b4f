"""What a CLIP computes of a data set's records: computed once, and kept on disk."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import pathlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import platformdirs
from jaxtyping import Bool, Float, Int

from diffjax.batches import padded
from diffjax.data import Records
from diffjax.data.bad import BadRecord, Tally
from diffjax.data.base import Record
from diffjax.data.skipping import read_all
from diffjax.data.wrapped import check_texts
from diffjax.errors import UserError
from diffjax.files import write_whole
from diffjax.tasks.text_to_image import Told
from diffjax.tasks.towers import BATCH, Towers

CACHE = platformdirs.user_cache_path("diffjax") / "embeddings"
SAMPLE = 64  # records that a file is compared with before it is used
FORM = 1  # of the files: another form has other names


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """What a tower computes of each record; rows of records that cannot be read are zeros.

    rows: embeddings; or the states of all tokens one after the other, of which each record has
    `lengths` up to its end token, and up to `length` may be.
    """

    rows: Float[np.ndarray, "R D"]
    good: Bool[np.ndarray, "N"]
    lengths: Int[np.ndarray, "N"] | None = None
    length: int = 0

    def told(self) -> Callable[[int], Record]:
        """A function from a record's index to `vector`, or `tokens` and `token_mask`."""
        lengths = self.lengths
        if lengths is None:
            return lambda index: {"vector": self.rows[index]}
        ends = np.cumsum(lengths)

        def states(index: int) -> Record:
            count = lengths[index]
            tokens = np.zeros((self.length, self.rows.shape[1]), np.float32)
            tokens[:count] = self.rows[ends[index] - count : ends[index]]
            return {"tokens": tokens, "token_mask": np.arange(self.length) < count}

        return states


@dataclasses.dataclass(frozen=True)
class EmbeddingCache:
    """Embeddings of `records`, a training split, by `towers`, whose weights have the `digest`.

    data: what the records are, as texts. folder: where files are kept. A file is named by the
    weights, how towers read, the data and their number; before it is used, 64 of the records spread
    over the set are compared. Raises UserError for records without texts.
    """

    records: Records
    towers: Towers
    digest: str
    data: Sequence[str]
    folder: pathlib.Path = CACHE
    max_bad_records: int = 0
    say: Callable[[str], object] = print

    def __post_init__(self) -> None:
        check_texts(self.records)

    def path(self, told: Told) -> pathlib.Path:
        """The file of one kind of embeddings."""
        towers = self.towers
        named = [
            FORM, self.digest, towers.tokenizer.length, towers.mean, towers.std, *self.data,
            self.records.image_shape, len(self.records),
        ]  # fmt: skip
        name = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]
        return self.folder / f"{told}_{name}.npz"

    def load(self, told: Told) -> Embeddings:
        """The embeddings, computed where there is no sound file of them; one process at a time.

        Raises UserError where they cannot be computed or written.
        """
        path = self.path(told)
        try:
            with _held(path):
                found = self._read(path)
                if found is not None:
                    self.say(f"{told} embeddings: {path}")
                    return found
                self.say(f"computing {told} embeddings of {len(self.records):,} records")
                made = self._compute(told)
                self._write(path, made)
                return made
        except OSError as error:
            raise UserError(
                f"cannot write embeddings to {path}: {error.strerror or error}: make room, or "
                "choose another folder",
                option="cache_dir",
            ) from error

    def _read(self, path: pathlib.Path) -> Embeddings | None:
        """The file's embeddings; None where it is missing, or said to be of no use."""
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                values = {name: file[name] for name in file.files}
            return self._checked(values)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            said = " ".join(str(error).split())
            self.say(f"{path} is not used ({said}): the embeddings are computed again")
            return None

    def _checked(self, values: dict[str, np.ndarray]) -> Embeddings:
        """Raises ValueError or KeyError for what are no embeddings of these records."""
        if str(values["sample"]) != self._sample():
            raise ValueError("it is of other records")
        rows, good, lengths = values["rows"], values["good"], values.get("lengths")
        count = len(self.records)
        expected = count if lengths is None else int(lengths.sum())
        if rows.shape[:1] != (expected,) or rows.dtype != np.float32 or good.shape != (count,):
            raise ValueError("its arrays have other shapes")
        return Embeddings(rows, good, lengths, self.towers.tokenizer.length)

    def _sample(self) -> str:
        """A digest of some records, spread over the set, and of their tokens."""
        digest, count = hashlib.sha256(), len(self.records)
        for index in np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int)):
            try:
                record = self.records[int(index)]
            except BadRecord:
                digest.update(b"bad")
                continue
            digest.update(np.ascontiguousarray(record["image"]).tobytes())
            digest.update(record["text"].encode(errors="surrogatepass") + b"\0")
            digest.update(self.towers.tokenizer([record["text"]]).tobytes())
        return digest.hexdigest()

    def _write(self, path: pathlib.Path, made: Embeddings) -> None:
        arrays: dict[str, Any] = {
            "rows": made.rows,
            "good": made.good,
            "sample": np.asarray(self._sample()),
        }
        if made.lengths is not None:
            arrays["lengths"] = made.lengths

        def write(part: pathlib.Path) -> None:
            with part.open("wb") as file:
                np.savez(file, **arrays)

        write_whole(path, write)

    def _compute(self, told: Told) -> Embeddings:
        good, texts, found = [], [], []
        tally, count = Tally(self.max_bad_records), len(self.records)
        for first, rows in padded(count, min(BATCH, count)):
            own = [int(row) for row in rows]
            read = self._rows(own, tally)
            kept = read[: count - first]
            good += [row is not None for row in kept]
            texts += ["bad" if row is None else row["text"] for row in kept]
            if told == "image":
                blank = np.zeros(self.records.image_shape, np.float32)
                images = np.stack([blank if row is None else row["image"] for row in read])
                found.append(self.towers.images(images)[: len(kept)])
        lengths = None
        if told == "image":
            made = np.concatenate(found)
        elif told == "text":
            made = self.towers.texts(texts)
        else:
            states, mask = self.towers.states(texts)
            made, lengths = states[mask], mask.sum(1)
        if not np.isfinite(made).all():
            raise UserError("the CLIP computes numbers that are not finite: choose another")
        kept_rows = np.asarray(good) if lengths is None else np.repeat(good, lengths)
        made = np.where(kept_rows[:, None], made, np.float32(0))
        return Embeddings(made, np.asarray(good), lengths, self.towers.tokenizer.length)

    def _rows(self, indices: list[int], tally: Tally) -> list[Record | None]:
        """The records, None for a bad one. Raises UserError for one too many."""
        try:
            return list(read_all(self.records, indices))
        except BadRecord:  # which one it is shows when they are read one by one
            return [self._row(index, tally) for index in indices]

    def _row(self, index: int, tally: Tally) -> Record | None:
        try:
            return self.records[index]
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

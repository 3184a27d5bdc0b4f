"""What a CLIP computes of a data set's records: computed once, and kept on disk."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from diffjax.batches import padded
from diffjax.data import Records
from diffjax.data.bad import Tally
from diffjax.data.base import Record
from diffjax.data.wrapped import check_texts
from diffjax.errors import UserError
from diffjax.tasks.record_cache import FOLDER, Arrays, CacheFile, images_of, named, read_rows
from diffjax.tasks.text_to_image import Told
from diffjax.tasks.towers import BATCH, Towers

FORM = 1  # of the files: another form has other names


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """What a tower computes of each record; rows of records that cannot be read are zeros.

    rows: embeddings; or the states of all tokens one after the other, of which each record has
    `lengths` up to its end token, and up to `length` may be. empty: the states of a text of no
    words, where each record has as many states, those of padding included.
    """

    rows: Float[np.ndarray, "R D"]
    good: Bool[np.ndarray, "N"]
    lengths: Int[np.ndarray, "N"] | None = None
    length: int = 0
    empty: Float[np.ndarray, "L D"] | None = None

    def told(self) -> Callable[[int], Record]:
        """A function from a record's index to `vector`, or `tokens` and `token_mask`.

        In the place of a mask there are `empty_tokens`, where there are states of padding.
        """
        lengths = self.lengths
        if lengths is None:
            return lambda index: {"vector": self.rows[index]}
        ends = np.cumsum(lengths)

        def states(index: int) -> Record:
            count = lengths[index]
            tokens = np.zeros((self.length, self.rows.shape[1]), np.float32)
            tokens[:count] = self.rows[ends[index] - count : ends[index]]
            if self.empty is not None:
                return {"tokens": tokens, "empty_tokens": self.empty}
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
    folder: pathlib.Path = FOLDER
    max_bad_records: int = 0
    say: Callable[[str], object] = print

    def __post_init__(self) -> None:
        check_texts(self.records)

    def path(self, told: Told) -> pathlib.Path:
        """The file of one kind of embeddings."""
        towers = self.towers
        return named(self.folder, told, [
            FORM, self.digest, towers.tokenizer.length, towers.mean, towers.std, *self.data,
            self.records.image_shape, len(self.records),
        ])  # fmt: skip

    def load(self, told: Told) -> Embeddings:
        """The embeddings, computed where there is no sound file of them.

        Raises UserError where they cannot be computed or written.
        """
        kind = f"{told} embeddings"
        file = CacheFile(self.path(told), kind, self.records, self._seen, self.say)
        return file.load(self._checked, lambda: self._compute(told))

    def _checked(self, values: Arrays) -> Embeddings:
        """Raises ValueError or KeyError for what are no embeddings of these records."""
        rows, good, lengths = values["rows"], values["good"], values.get("lengths")
        count = len(self.records)
        expected = count if lengths is None else int(lengths.sum())
        if rows.shape[:1] != (expected,) or rows.dtype != np.float32 or good.shape != (count,):
            raise ValueError("its arrays have other shapes")
        length = self.towers.tokenizer.length
        empty = values.get("empty")
        if empty is not None and empty.shape != (length, rows.shape[1]):
            raise ValueError("the states of no words have another shape")
        return Embeddings(rows, good, lengths, length, empty)

    def _seen(self, record: Record) -> bytes:
        text = record["text"]
        ids = self.towers.tokenizer([text]).tobytes()
        pixels = np.ascontiguousarray(record["image"]).tobytes()
        return pixels + text.encode(errors="surrogatepass") + b"\0" + ids

    def _compute(self, told: Told) -> Arrays:
        good, texts, found = [], [], []
        tally, count = Tally(self.max_bad_records), len(self.records)
        for first, rows in padded(count, min(BATCH, count)):
            read = read_rows(self.records, [int(row) for row in rows], tally)
            kept = read[: count - first]
            good += [row is not None for row in kept]
            texts += ["bad" if row is None else row["text"] for row in kept]
            if told == "image":
                images = images_of(read, self.records.image_shape)
                found.append(self.towers.images(images)[: len(kept)])
        more: Arrays = {}
        if told == "image":
            made = np.concatenate(found)
        elif told == "text":
            made = self.towers.texts(texts)
        else:
            whole = told == "padded_tokens"
            states, mask = self.towers.states(texts, padded=whole)
            made, more = states[mask], {"lengths": mask.sum(1)}
            if whole:
                more["empty"] = self.towers.states([""], padded=True)[0][0]
        if not np.isfinite(made).all():
            raise UserError("the CLIP computes numbers that are not finite: choose another")
        kept_rows = np.repeat(good, more.get("lengths", 1))
        made = np.where(kept_rows[:, None], made, np.float32(0))
        return {"rows": made, "good": np.asarray(good), **more}

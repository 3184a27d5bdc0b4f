"""Records with their texts as token ids, as a contrastive loss reads them."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from diffjax.data.bad import BadRecord
from diffjax.data.base import Record, Records
from diffjax.data.contents import Contents
from diffjax.data.families import normalised
from diffjax.data.skipping import read_all
from diffjax.errors import UserError

__all__ = ["Tokenised", "caption_number"]


def caption_number(text: str) -> np.int32:
    """A number of the caption: equal captions, in any case and spacing, have equal numbers.

    It is the CRC-32, so that any process computes the same one. Two of 1,000 different captions
    have equal numbers with a probability of 0.01%. Raises UnicodeEncodeError for lone surrogates.
    """
    return np.uint32(zlib.crc32(normalised(text).encode())).view(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenised:
    """`records` with `ids` (int32, L) and `caption` (np.int32) in the place of `text`.

    `tokenizer` maps a list of texts to int32 of the shape (N, L). Pairs with equal `caption` are no
    negatives of each other. Raises UserError for records without texts, and reading one raises
    BadRecord for a text that the tokenizer refuses. One record is read to look for its text; where
    it is a bad record, the next.
    """

    records: Records
    tokenizer: Callable[[list[str]], Int32[np.ndarray, "N L"]]

    def __post_init__(self) -> None:
        for index in range(len(self.records)):
            try:
                record = self.records[index]
            except BadRecord:
                continue
            if "text" not in record:
                raise UserError(
                    "the data set has no texts: choose one with captions, such as captions"
                )
            return

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.records.image_shape

    @property
    def num_classes(self) -> int | None:
        return self.records.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.records.class_names

    @property
    def contents(self) -> Contents:
        return self.records.contents

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self._tokenised(self.records[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        rows = read_all(self.records, indices)
        return [self._tokenised(row, index) for row, index in zip(rows, indices, strict=True)]

    def _tokenised(self, record: Record, index: int) -> Record:
        rest = {key: value for key, value in record.items() if key != "text"}
        try:
            ids = self.tokenizer([record["text"]])[0]
            return {**rest, "ids": ids, "caption": caption_number(record["text"])}
        except (UserError, UnicodeEncodeError) as error:
            what = f"cannot read the caption of record {index} of the split ({error})"
            raise BadRecord(what, "correct it") from error

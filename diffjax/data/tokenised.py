"""Records with their texts as token ids, as a contrastive loss reads them."""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32

from diffjax.data.bad import BadRecord
from diffjax.data.base import Record
from diffjax.data.families import normalised
from diffjax.data.wrapped import Wrapped, check_texts, without_text
from diffjax.errors import UserError

__all__ = ["Tokenised", "caption_number"]


def caption_number(text: str) -> np.int32:
    """A number of the caption: equal captions, in any case and spacing, have equal numbers.

    It is the CRC-32, so that any process computes the same one. Two of 1,000 different captions
    have equal numbers with a probability of 0.01%. Raises UnicodeEncodeError for lone surrogates.
    """
    return np.uint32(zlib.crc32(normalised(text).encode())).view(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenised(Wrapped):
    """`records` with `ids` (int32, L) and `caption` (np.int32) in the place of `text`.

    `tokenizer` maps a list of texts to int32 of the shape (N, L). Pairs with equal `caption` are no
    negatives of each other. Raises UserError for records without texts, and reading one raises
    BadRecord for a text that the tokenizer refuses.
    """

    tokenizer: Callable[[list[str]], Int32[np.ndarray, "N L"]]

    def __post_init__(self) -> None:
        check_texts(self.records)

    def changed(self, record: Record, index: int) -> Record:
        try:
            ids, caption = self.tokenizer([record["text"]])[0], caption_number(record["text"])
        except (UserError, UnicodeEncodeError) as error:
            what = f"cannot read the caption of record {index} of the split ({error})"
            raise BadRecord(what, "correct it") from error
        return {**without_text(record), "ids": ids, "caption": caption}

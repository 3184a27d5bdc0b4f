"""Embeddings of a data set's pictures, each paired with its caption, by two towers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, Int

from diffjax.data import Records
from diffjax.data.base import Record
from diffjax.data.skipping import read_all
from diffjax.errors import UserError

AT_A_TIME = 256  # records read, and images or texts embedded: changes memory and speed alone


class TwoTowers(Protocol):
    """A trained CLIP. Embeddings have any length; logits are logit_scale times cosines."""

    @property
    def name(self) -> str: ...

    @property
    def logit_scale(self) -> float: ...

    def images(self, images: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
        """Of float32 images in [-1, 1]."""

    def texts(self, texts: list[str]) -> Float[np.ndarray, "N D"]: ...


class Paired(NamedTuple):
    """Unit vectors of pictures and of their distinct captions; picture i has caption `own[i]`."""

    images: Float[np.ndarray, "N D"]
    texts: Float[np.ndarray, "M D"]
    captions: tuple[str, ...]
    own: Int[np.ndarray, "N"]


def pair(towers: TwoTowers, records: Records) -> Paired:
    """All records, and their captions in the order of their first picture.

    Raises UserError for records without captions, and what reading raises.
    """
    texts: list[str] = []
    rows = []
    for part in parts(records, range(len(records))):
        texts += captions_of(part)
        rows.append(towers.images(np.stack([record["image"] for record in part])))
    captions = tuple(dict.fromkeys(texts))
    places = {caption: place for place, caption in enumerate(captions)}
    return Paired(
        unit(np.concatenate(rows)),
        encode_texts(towers, captions),
        captions,
        np.array([places[text] for text in texts]),
    )


def encode_texts(towers: TwoTowers, texts: Sequence[str]) -> Float[np.ndarray, "M D"]:
    """Unit vectors of the texts."""
    starts = range(0, len(texts), AT_A_TIME)
    rows = [towers.texts(list(texts[start : start + AT_A_TIME])) for start in starts]
    return unit(np.concatenate(rows))


def parts(records: Records, indices: Sequence[int]) -> Iterator[Sequence[Record]]:
    """The records of these indices, some at a time. Raises UserError where there are none."""
    if not len(indices):
        raise UserError("the data set has no record to match: choose another")
    for start in range(0, len(indices), AT_A_TIME):
        yield read_all(records, list(indices[start : start + AT_A_TIME]))


def captions_of(rows: Sequence[Record]) -> list[str]:
    """Raises UserError for records without captions."""
    if any("text" not in row for row in rows):
        raise UserError("the data set has no captions: choose one with a text for each image")
    return [str(row["text"]) for row in rows]


def unit(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """Rows of length 1 in float64: equal rows then have equal cosines after rounding to float32."""
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

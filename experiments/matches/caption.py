"""Which of many captions fits a picture best."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffjax.errors import UserError
from experiments.matches.paired import TwoTowers, encode_texts, unit


class Match(NamedTuple):
    """A caption, its cosine to the picture, and its share of the softmax over all captions."""

    caption: str
    cosine: float
    share: float


def best_captions(
    towers: TwoTowers, images: Float[np.ndarray, "N H W C"], captions: Sequence[str], k: int
) -> list[list[Match]]:
    """For each of N images in [-1, 1] its `k` nearest captions, the nearest first.

    A caption that is given twice counts once; of equally near ones the earlier comes first. Fewer
    than `k` where there are fewer captions. Raises UserError for none, and for k below 1.
    """
    known = list(dict.fromkeys(captions))
    if not known:
        raise UserError("there is no caption to choose from: give one or more")
    if k < 1:
        raise UserError(f"{k} captions per picture cannot be shown: choose 1 or more")
    cosines = unit(towers.images(images)) @ encode_texts(towers, known).T
    logits = towers.logit_scale * cosines
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return [
        [Match(known[j], float(cosines[i, j]), float(shares[i, j])) for j in row]
        for i, row in enumerate(order)
    ]

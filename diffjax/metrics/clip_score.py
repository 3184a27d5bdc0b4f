"""How well images fit their texts, by the embeddings of a CLIP."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from diffjax.metrics.embeddings import PRECISE, normalised
from diffjax.metrics.intervals import REPLICATES, Interval, halves, interval, wilson
from diffjax.metrics.retrieval import ranks_among

WEIGHT = 100  # of the cosine
Embeddings = Float[Array, "N D"] | Float[np.ndarray, "N D"]


class ClipScore(NamedTuple):
    """A mean over pairs, and its interval of 95%."""

    value: float
    interval: Interval


class Matched(NamedTuple):
    """A share of images, its interval of 95%, and what guessing would have."""

    value: float
    interval: Interval
    chance: float


def clip_scores(images: Embeddings, texts: Embeddings) -> Float[np.ndarray, "N"]:
    """max(100 cosine, 0) of each pair: row i of `images` with row i of `texts`.

    Embeddings need not be normalised. Hessel et al. 2021, CLIPScore, sec. 3, have 2.5 in place of
    100, and a prompt before each caption; torchmetrics has 100. Scores of two CLIPs cannot be
    compared.
    """
    cosines = jnp.sum(normalised(images) * normalised(texts), axis=-1)
    return np.asarray(jnp.maximum(WEIGHT * cosines, 0))


def clip_score(images: Embeddings, texts: Embeddings, seed: int = 0) -> ClipScore:
    """The mean of `clip_scores`, and its interval (`intervals.interval`) over draws of the pairs.

    torchmetrics cuts the mean at 0 and not each pair, which is the same unless a cosine is
    negative. The interval takes each pair for a draw of its own: give one per caption. Raises
    ValueError for fewer than two pairs.
    """
    scores = clip_scores(images, texts).astype(np.float64)
    if len(scores) < 2:
        raise ValueError(f"an interval needs 2 pairs or more, not {len(scores)}")
    kept = halves(len(scores), REPLICATES, np.random.default_rng(seed))
    values = (kept @ scores) / kept.sum(1)
    return ClipScore(float(values[0]), interval(values, 0, WEIGHT))


def matched_among(
    images: Embeddings,
    texts: Float[Array, "M D"] | Float[np.ndarray, "M D"],
    right_index: Int[np.ndarray, "N"],
    count: int = 20,
    seed: int = 0,
) -> Matched:
    """The share of images whose own caption is the most similar among `count` captions.

    `texts` are the embeddings of M distinct captions, and image i has caption right_index[i]. The
    other candidates are drawn for each image (`retrieval.candidates`). A tie is no match. The
    interval is Wilson's, the chance 1 / count. Raises UserError for fewer captions than `count`,
    and ValueError where there is no image.
    """
    cosines = jnp.matmul(normalised(images), normalised(texts).T, precision=PRECISE)
    hits = ranks_among(np.asarray(cosines), right_index, count, seed) == 0
    own = wilson(int(hits.sum()), len(hits))
    return Matched(float(hits.mean()), own, 1 / count)

"""Improved precision and recall: how much of each of two sets lies where the other is."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffjax.metrics.features import checked

NEIGHBOURS = 3  # as in the paper
CHUNK = 2**21  # float64 numbers held at once, 16 MiB


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of the samples among the reference, of the reference among the samples."""

    precision: float
    recall: float


def precision_recall(
    reference: Float[np.ndarray, "N D"],
    samples: Float[np.ndarray, "M D"],
    *,
    neighbours: int = NEIGHBOURS,
) -> PrecisionRecall:
    """Shares that lie in the other set's balls (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Each point of a set has a ball as large as the distance to its `neighbours`-th nearest within
    the set, itself not counted. Both shares rise with N and M: compare those of one count only.
    Raises ValueError unless both sets have more than `neighbours` rows, all of them finite.
    """
    reference = checked(reference, least=neighbours + 1)
    samples = checked(samples, least=neighbours + 1)
    return PrecisionRecall(
        precision=float(_covered(samples, reference, neighbours).mean()),
        recall=float(_covered(reference, samples, neighbours).mean()),
    )


def _covered(
    points: Float[np.ndarray, "N D"], centres: Float[np.ndarray, "M D"], neighbours: int
) -> Bool[np.ndarray, "N"]:
    """Which points lie in the ball of at least one centre, its edge included."""
    # A centre is its own nearest, at exactly 0, so the neighbours begin at place 1.
    radii = np.concatenate(
        [np.partition(d, neighbours, axis=1)[:, neighbours] for d in _distances(centres, centres)]
    )
    return np.concatenate([(d <= radii).any(axis=1) for d in _distances(points, centres)])


def _distances(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]
) -> Iterator[Float[np.ndarray, "n M"]]:
    """Squared distances, a few rows of `a` at a time.

    From differences, not from |a|² + |b|² - 2ab, which would put equal points apart by rounding.
    """
    rows = max(1, CHUNK // b.size)
    for first in range(0, len(a), rows):
        apart = a[first : first + rows, None] - b
        yield np.einsum("nmd,nmd->nm", apart, apart)

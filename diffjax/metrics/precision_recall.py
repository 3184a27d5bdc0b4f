"""Improved precision and recall: how much of each of two sets lies where the other is."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffjax.metrics.features import checked
from diffjax.metrics.neighbours import covers, distances, nearest

NEIGHBOURS = 3  # as in the paper


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
    radii = nearest(centres, centres, neighbours + 1).squared[:, neighbours]
    return np.concatenate([covers(d, radii[None]).any(axis=1) for d in distances(points, centres)])

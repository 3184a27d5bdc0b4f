"""Density and coverage: precision and recall that single outliers of either set cannot lift."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffjax.metrics.features import checked
from diffjax.metrics.neighbours import covers, distances, nearest

NEIGHBOURS = 5  # as in the paper


class DensityCoverage(NamedTuple):
    """Density, at least 0 and about 1 for samples like the reference; coverage, a share."""

    density: float
    coverage: float


def density_coverage(
    reference: Float[np.ndarray, "N D"],
    samples: Float[np.ndarray, "M D"],
    *,
    neighbours: int = NEIGHBOURS,
) -> DensityCoverage:
    """In how many balls of the reference samples lie, and how many have any (Naeem et al. 2020).

    A point of the reference has a ball as large as the distance to its `neighbours`-th nearest
    within the reference, itself not counted. Density is the number of balls that a sample lies in,
    over `neighbours`, on average; coverage the share of balls with a sample, which rises
    with M. Raises ValueError for a reference of no more than `neighbours` rows, no samples,
    and numbers that are not finite.
    """
    reference, samples = checked(reference, least=neighbours + 1), checked(samples, least=1)
    radii = nearest(reference, reference, neighbours + 1).squared[:, neighbours]
    held, reached = 0, np.zeros(len(reference), bool)
    for squared in distances(samples, reference):
        inside = covers(squared, radii[None])
        held += int(inside.sum())
        reached |= inside.any(axis=0)
    return DensityCoverage(held / (neighbours * len(samples)), float(reached.mean()))

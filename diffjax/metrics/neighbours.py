"""Balls about the points of a set, each reaching to a near neighbour within the set."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

CHUNK = 2**21  # float64 numbers held at once, 16 MiB
# Of |a|² + |b|²: a squared distance below it has too few digits left once they are subtracted.
CANCELLED = 1e-6
EDGE = 1 + 1e-9  # a ball holds what is on its edge, up to rounding


class Nearest(NamedTuple):
    """Squared distances to each point's nearest in a set, and which they are, in rising order."""

    squared: Float[np.ndarray, "N L"]
    which: Int[np.ndarray, "N L"]


def nearest(
    points: Float[np.ndarray, "N D"], among: Float[np.ndarray, "M D"], count: int
) -> Nearest:
    """The `count` nearest to each point among others, or all where there are no more."""
    count = min(count, len(among))
    squared, which = [], []
    for rows in distances(points, among):
        found = np.argpartition(rows, count - 1, axis=1)[:, :count]
        apart = np.take_along_axis(rows, found, axis=1)
        order = apart.argsort(axis=1, kind="stable")
        squared.append(np.take_along_axis(apart, order, axis=1))
        which.append(np.take_along_axis(found, order, axis=1))
    return Nearest(np.concatenate(squared), np.concatenate(which))


def radii(near: Nearest, neighbours: int, kept: Bool[np.ndarray, "N"]) -> Float[np.ndarray, " n"]:
    """Squared distances of the kept points to their `neighbours`-th nearest among the kept."""
    near = Nearest(near.squared[kept], near.which[kept])
    seen = np.cumsum(kept[near.which], axis=1)  # the point itself is the first that is seen
    place = (seen > neighbours).argmax(axis=1)
    return near.squared[np.arange(len(place)), place]


def covers(
    squared: Float[np.ndarray, "n M"], radii: Float[np.ndarray, "#n #M"]
) -> Bool[np.ndarray, "n M"]:
    """Whether points at such squared distances lie in balls of such squared radii."""
    return squared <= radii * EDGE


def distances(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]
) -> Iterator[Float[np.ndarray, "n M"]]:
    """Squared distances, a few rows of `a` at a time, of points that coincide exactly 0."""
    centre = b.mean(0)
    a, b = a - centre, b - centre
    size_a, size_b = (np.einsum("nd,nd->n", x, x) for x in (a, b))
    rows = max(1, CHUNK // len(b))
    for first in range(0, len(a), rows):
        part = a[first : first + rows]
        sizes = size_a[first : first + rows, None] + size_b
        squared = sizes - 2 * part @ b.T
        i, j = np.nonzero(squared <= CANCELLED * sizes)
        pairs = max(1, CHUNK // b.shape[1])
        for k in range(0, len(i), pairs):
            some = slice(k, k + pairs)
            apart = part[i[some]] - b[j[some]]
            squared[i[some], j[some]] = np.einsum("nd,nd->n", apart, apart)
        yield squared

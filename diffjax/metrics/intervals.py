"""How far figures of finite samples can be trusted: intervals of 95%."""

import math
import statistics
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

LEVEL = 0.95
REPLICATES = 200


class Interval(NamedTuple):
    low: float
    high: float


def wilson(successes: int, total: int) -> Interval:
    """Wilson's score interval for a share, of which `successes` of `total` were seen (1927).

    Raises ValueError unless 0 <= successes <= total and total > 0.
    """
    if not 0 <= successes <= total or total < 1:
        raise ValueError(f"{successes} successes of {total} are no share")
    z2 = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
    middle = (successes + z2 / 2) / (total + z2)
    # Of both ends the one that is 0 or 1 exactly is so by definition, not up to rounding.
    spread = successes * (total - successes) / total + z2 / 4
    reach = math.sqrt(z2 * spread) / (total + z2)
    low = 0.0 if successes == 0 else middle - reach
    high = 1.0 if successes == total else middle + reach
    return Interval(low, high)


def halves(count: int, replicates: int, rng: np.random.Generator) -> Bool[np.ndarray, "R {count}"]:
    """Which rows of `count` are kept: all of them first, then random halves and their complements.

    `replicates` is even.
    """
    kept = np.ones((replicates + 1, count), bool)
    for i in range(1, replicates, 2):
        kept[i, rng.permutation(count)[: count // 2]] = False
        kept[i + 1] = ~kept[i]
    return kept


def interval(
    values: Float[np.ndarray, "R"],
    least: float | int = -math.inf,
    most: float | int = math.inf,
) -> Interval:
    """The interval about values[0], which all rows gave, from what `halves` of them gave after it.

    Its ends lie where quantiles of the halves' values lie about their mean: the percentile
    bootstrap, without replacement (delete-half jackknife; Shao & Wu 1989; Politis & Romano
    1994). Of a sum over rows the values spread as the bootstrap's do, and as much as the sum itself
    from one draw of the rows to the next; but no row is there twice, which would put its nearest
    neighbour at 0 and count its kernel with itself. The interval says where the mean over draws of
    *these counts* lies: what the counts themselves do to a figure is not in it. The ends are cut to
    `least` and `most`.
    """
    tail = (1 - LEVEL) / 2
    ends = values[0] + np.quantile(values[1:] - values[1:].mean(), [tail, 1 - tail])
    low, high = (float(end) for end in np.clip(ends, least, most))
    return Interval(low, high)

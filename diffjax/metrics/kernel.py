"""The kernel distance: how far two sets of features are apart, without a bias for their counts."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffjax.metrics.features import checked

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's
CHUNK = 2**21  # float64 numbers held at once, 16 MiB


class KernelDistance(NamedTuple):
    """Mean and standard deviation over subsets."""

    mean: float
    deviation: float


def kernel_distance(
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    *,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = SEED,
) -> KernelDistance:
    """The squared maximum mean discrepancy over random subsets (Bińkowski et al. 2018).

    With the kernel (x·y / D + 1)³, in float64: 0 on average for two sets from one distribution,
    whatever their counts, and then below 0 as often as above. The subsets are those that
    torch-fidelity draws from a seed. Raises ValueError for sets smaller than `subset_size`, a
    subset of fewer than two rows, and numbers that are not finite.
    """
    a, b = (checked(x, least=max(2, subset_size)) for x in (a, b))
    rng = np.random.RandomState(seed)
    chosen = [
        [rng.choice(len(x), subset_size, replace=False) for x in (a, b)] for _ in range(subsets)
    ]
    in_a, in_b = (
        np.stack([np.isin(np.arange(len(x)), pair[side]) for pair in chosen])
        for side, x in enumerate((a, b))
    )
    found = squared_mmd(a, b, in_a, in_b)
    return KernelDistance(float(found.mean()), float(found.std()))


def squared_mmd(
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    in_a: Bool[np.ndarray, "R N"],
    in_b: Bool[np.ndarray, "R M"],
) -> Float[np.ndarray, "R"]:
    """The unbiased estimate from the rows of each of R subsets (Gretton et al. 2012, lemma 6).

    Each kernel is computed once, and none is kept.
    """
    in_a, in_b = (x.astype(np.float64) for x in (in_a, in_b))
    return _mean_within(a, in_a) + _mean_within(b, in_b) - 2 * _mean_between(a, b, in_a, in_b)


def _mean_between(
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    in_a: Float[np.ndarray, "R N"],
    in_b: Float[np.ndarray, "R M"],
) -> Float[np.ndarray, "R"]:
    total, rows = np.zeros(len(in_a)), max(1, CHUNK // len(b))
    for first in range(0, len(a), rows):
        part = slice(first, first + rows)
        values = _kernel(a[part] @ b.T, a.shape[1])
        total += np.einsum("rm,rm->r", in_a[:, part] @ values, in_b)
    return total / (in_a.sum(1) * in_b.sum(1))


def _mean_within(
    x: Float[np.ndarray, "N D"], chosen: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, "R"]:
    """Over all pairs of two different rows."""
    count = chosen.sum(1)
    alone = chosen @ _kernel(np.einsum("nd,nd->n", x, x), x.shape[1])
    return (_mean_between(x, x, chosen, chosen) * count**2 - alone) / (count * (count - 1))


def _kernel(products: Float[np.ndarray, "..."], dims: int) -> Float[np.ndarray, "..."]:
    return (products / dims + 1) ** 3

"""The Fréchet distance between the Gaussians that two sets of features would be drawn from."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from diffjax.metrics.features import checked


class Influence(NamedTuple):
    """A distance, and what each row of either set adds to it where it counts for one more."""

    distance: float
    of_a: Float[np.ndarray, "N"]
    of_b: Float[np.ndarray, "M"]


def frechet_distance(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]) -> float:
    """|m_a - m_b|² + tr(S_a + S_b - 2 (S_a S_b)^½), as FID squared (Heusel et al. 2017, eq. 6).

    m and S are mean and unbiased covariance, in float64 (Dowson & Landau 1982). At least 0, in the
    features' unit squared. It falls as N and M grow: compare distances of one count only. S may be
    singular, of fewer rows than D or of constant features. Raises ValueError for fewer than two
    rows and for numbers that are not finite.
    """
    a, b = checked(a, least=2), checked(b, least=2)
    shift = a.mean(0) - b.mean(0)
    root_a, root_b = _root(a), _root(b)
    # The eigenvalues of S_a S_b are the squared singular values of this product, so that no square
    # root is taken of a difference that has cancelled.
    common = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    squared = shift @ shift + np.sum(root_a**2) + np.sum(root_b**2) - 2 * common
    return max(0.0, float(squared))


def influence(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]) -> Influence:
    """The distance's first-order change with the weight of each row (Jaeckel 1972; Efron 1982).

    Rows of weights 1 + w, which sum to 0 over each set, have the distance
    `distance + w_a @ of_a + w_b @ of_b`, but for terms of second order. Raises as
    `frechet_distance` does.
    """
    a, b = checked(a, least=2), checked(b, least=2)
    shift = a.mean(0) - b.mean(0)
    (rows_a, root_a), (rows_b, root_b) = _factors(a), _factors(b)
    left, common, right = np.linalg.svd(root_a @ root_b.T, full_matrices=False)
    squared = shift @ shift + np.sum(root_a**2) + np.sum(root_b**2) - 2 * common.sum()
    return Influence(
        max(0.0, float(squared)),
        _influence(a, shift, (rows_a @ left) ** 2 @ common),
        _influence(b, -shift, (rows_b @ right.T) ** 2 @ common),
    )


def count_bias(
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    in_a: Bool[np.ndarray, "R N"],
    in_b: Bool[np.ndarray, "R M"],
) -> float:
    """What their counts add to the distance of two sets, told from halves of them, R times.

    It is as 1 / N (Chong & Forsyth 2020), so that halves have it twice: their mean distance less
    that of all rows. What it leaves is the distance of the distributions.
    """
    of_halves = [frechet_distance(a[x], b[y]) for x, y in zip(in_a, in_b, strict=True)]
    return float(np.mean(of_halves)) - frechet_distance(a, b)


def _influence(
    x: Float[np.ndarray, "N D"], shift: Float[np.ndarray, "D"], common: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """Through the mean, the trace of the covariance, and the trace of the root, `common`.

    The derivative of the last in S_a is half the map that takes the one Gaussian to the other; of a
    centred row it is what the singular vectors give without an inverse.
    """
    centred = x - x.mean(0)
    spread = np.einsum("nd,nd->n", centred, centred) / (len(x) - 1)
    return 2 * centred @ shift / len(x) + spread - common


def _root(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "R D"]:
    """R with RᵀR the covariance; unlike the covariance itself it keeps small spreads exact."""
    return np.asarray(np.linalg.qr(_scaled(x), mode="r"))


def _factors(
    x: Float[np.ndarray, "N D"],
) -> tuple[Float[np.ndarray, "N R"], Float[np.ndarray, "R D"]]:
    """Orthonormal columns, and the root, whose product is the centred rows over √(N - 1)."""
    q, r = np.linalg.qr(_scaled(x))
    return q, r


def _scaled(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    return (x - x.mean(0)) / np.sqrt(len(x) - 1)

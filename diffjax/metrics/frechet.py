"""The Fréchet distance between the Gaussians that two sets of features would be drawn from."""

import numpy as np
from jaxtyping import Float

from diffjax.metrics.features import checked


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


def _root(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "R D"]:
    """R with RᵀR the covariance; unlike the covariance itself it keeps small spreads exact."""
    return np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1)).R

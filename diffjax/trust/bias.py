"""Whether what is drawn has classes and attributes as the data do."""

import numpy as np
from jaxtyping import Float, Int
from scipy import stats


def frequency_tests(
    drawn: Int[np.ndarray, "*n K"], real: Int[np.ndarray, "K"]
) -> Float[np.ndarray, "*n K"]:
    """A p-value for each count of a class among drawn images, against that among real ones.

    Fisher's exact test, two-sided, of each class against all others, corrected for the number of
    all tests by Holm (1979): the chance that any of them is below 0.05 is 0.05 where nothing
    differs.
    """
    rows, total = np.reshape(drawn, (-1, len(real))), int(real.sum())
    alone = [
        stats.fisher_exact([[n, int(row.sum()) - n], [m, total - m]]).pvalue
        for row in rows
        for n, m in zip(row.tolist(), real.tolist(), strict=True)
    ]
    return holm(np.asarray(alone)).reshape(drawn.shape)


def attribute_tests(
    drawn: Float[np.ndarray, "S A N"], real: Float[np.ndarray, "A M"]
) -> Float[np.ndarray, "S A"]:
    """A p-value for each attribute's values among drawn images, against those among real ones.

    Kolmogorov and Smirnov's test of two samples, corrected as `frequency_tests`.
    """
    alone = [stats.ks_2samp(*pair).pvalue for row in drawn for pair in zip(row, real, strict=True)]
    return holm(np.asarray(alone)).reshape(drawn.shape[:2])


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """P-values corrected for their number, which holds whatever they depend on (Holm 1979)."""
    order = p_values.argsort()
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected

"""Intervals against SciPy's, and against how far figures spread from draw to draw."""

import numpy as np
import pytest
from scipy import stats

from diffjax.metrics.intervals import halves, interval, wilson


@pytest.mark.parametrize(("successes", "total"), [(0, 7), (7, 7), (1, 3), (991, 1000), (5, 10**6)])
def test_wilson(successes, total):
    expected = stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
    found = wilson(successes, total)
    np.testing.assert_allclose(found, (expected.low, expected.high), rtol=1e-12, atol=1e-15)


def test_wilson_of_no_share():
    for successes, total in ((0, 0), (4, 3), (-1, 3)):
        with pytest.raises(ValueError, match="no share"):
            wilson(successes, total)


@pytest.mark.parametrize("count", [10, 11])
def test_halves_come_in_pairs(count):
    kept = halves(count, 6, np.random.default_rng(0))
    assert kept.shape == (7, count)
    assert kept[0].all()
    np.testing.assert_array_equal(kept[1::2], ~kept[2::2])
    assert set(kept[1:].sum(1)) == {count // 2, count - count // 2}
    assert len({row.tobytes() for row in kept}) == 7, "all different"


def test_halves_of_a_mean_spread_as_means_do():
    """By σ / √N about the mean, whose normal interval it is."""
    rows = np.random.default_rng(0).normal(3, 2, 400)
    kept = halves(400, 20_000, np.random.default_rng(1))
    low, high = interval(kept @ rows / kept.sum(1))
    reach = stats.norm.ppf(0.975) * rows.std(ddof=1) / np.sqrt(400)
    np.testing.assert_allclose(
        (low, high), rows.mean() + np.array([-reach, reach]), atol=0.02 * reach
    )


def test_a_bias_of_halves_is_left_out():
    """Their figures may lie elsewhere: only how they spread counts, about that of all rows."""
    values = np.array([5.0, *np.linspace(8, 10, 201)])
    assert interval(values) == pytest.approx((5 - 0.95, 5 + 0.95))
    assert interval(values, 4.5, 5.5) == (4.5, 5.5)

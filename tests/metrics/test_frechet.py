"""The Fréchet distance against closed forms, SciPy's matrix root and its own laws."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from diffjax.metrics.frechet import count_bias, frechet_distance, influence
from diffjax.metrics.intervals import halves

FEATURES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 12), st.just(3)),
    elements=st.floats(-100, 100),
)


def drawn(seed, count, dims):
    """Correlated features off the origin."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dims)) @ rng.normal(size=(dims, dims)) + rng.normal(size=dims)


def with_moments(mean, deviations):
    """Rows whose mean and unbiased covariance, diag(deviations²), are exact."""
    dims = len(deviations)
    rows = np.concatenate([np.eye(dims), -np.eye(dims)]) * np.sqrt((2 * dims - 1) / 2)
    return mean + rows * deviations


def test_one_dimension():
    """(m_a - m_b)² + (s_a - s_b)² (Dowson & Landau 1982)."""
    a, b = with_moments([1.0], [2.0]), with_moments([-2.0], [0.5])
    assert frechet_distance(a, b) == pytest.approx(3**2 + 1.5**2, rel=1e-12)


def test_diagonal_gaussians():
    s, u = np.array([1.0, 2.0, 0.3, 5.0]), np.array([0.1, 2.5, 0.0, 4.0])
    m = np.array([0.0, 1.0, -3.0, 0.5])
    distance = frechet_distance(with_moments(m, s), with_moments(0, u))
    assert distance == pytest.approx(m @ m + np.sum((s - u) ** 2), rel=1e-12)


@pytest.mark.parametrize(("counts", "dims"), [((200, 150), 5), ((500, 500), 64), ((70, 90), 64)])
def test_matrix_root(counts, dims):
    a, b = drawn(1, counts[0], dims), drawn(2, counts[1], dims)
    s, u = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(s @ u)
    shift = a.mean(0) - b.mean(0)
    expected = shift @ shift + np.trace(s + u - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)


def test_sampled_gaussians_come_near_the_distance_of_the_true_ones():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (100_000, 2)), rng.normal([1, 0], [1, 3], (100_000, 2))
    assert frechet_distance(a, b) == pytest.approx(1 + 4, rel=0.03)


def test_singular_covariance():
    """Two lines in the plane, at right angles: no part of either spread is shared."""
    t = np.linspace(-1, 1, 11)[:, None]
    a, b = t * [[3.0, 0.0]], t * [[0.0, 4.0]]
    assert frechet_distance(a, b) == pytest.approx((9 + 16) * t.var(ddof=1), rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_fewer_samples_than_dimensions():
    """A plane in a space of 50 dimensions: distances are those within the plane."""
    a, b = drawn(3, 6, 2), drawn(4, 9, 2)
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(50, 2)))[0].T
    assert frechet_distance(a @ basis, b @ basis) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_constant_features():
    a, b = np.full((5, 3), 2.0), np.full((4, 3), -1.0)
    assert frechet_distance(a, a) == 0
    assert frechet_distance(a, b) == 27
    assert frechet_distance(a, with_moments([2.0] * 3, [1.0] * 3)) == pytest.approx(3, rel=1e-12)


def test_small_spreads_are_not_lost_beside_large_ones():
    """In a covariance 1e-16 beside 1e4 would be rounding, and its root wrong by the whole."""
    a = with_moments(0, np.array([100.0, 1e-8]))
    b = with_moments(0, np.array([100.0, 3e-8]))
    assert frechet_distance(a, b) < 1e-10


def test_float32_features_are_computed_in_float64():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(1000, 1, (300, 8)).astype(np.float32) for _ in range(2))
    wide = frechet_distance(a.astype(np.float64), b.astype(np.float64))
    assert frechet_distance(a, b) == wide


@given(FEATURES, FEATURES)
def test_symmetric_and_not_negative(a, b):
    forth, back = frechet_distance(a, b), frechet_distance(b, a)
    assert forth >= 0
    np.testing.assert_allclose(forth, back, rtol=1e-9, atol=1e-8)


@given(FEATURES)
def test_zero_for_itself_in_any_order(a):
    assert frechet_distance(a, a[::-1]) <= 1e-9 * (1 + np.sum(a.var(0)))


@given(FEATURES, hnp.arrays(np.float64, 3, elements=st.floats(-100, 100)))
def test_translation(a, shift):
    np.testing.assert_allclose(frechet_distance(a, a + shift), shift @ shift, rtol=1e-7, atol=1e-7)


@given(FEATURES, FEATURES, st.integers(0, 1000))
def test_rotation_of_both(a, b, seed):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(
        frechet_distance(a @ q, b @ q), frechet_distance(a, b), rtol=1e-8, atol=1e-7
    )


@given(FEATURES, FEATURES, st.floats(0.01, 100))
def test_scale(a, b, scale):
    np.testing.assert_allclose(
        frechet_distance(scale * a, scale * b),
        scale**2 * frechet_distance(a, b),
        rtol=1e-7,
        atol=1e-7 * scale**2,
    )


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least 2"),
        (np.zeros((5, 3)), np.full((5, 3), np.nan), "not finite"),
    ],
)
def test_what_has_no_distance(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


@pytest.mark.parametrize(("counts", "dims"), [((40, 30), 3), ((90, 80), 20)])
def test_influence_is_the_derivative_in_the_weights(counts, dims):
    """Of the distance of weighted moments, by SciPy's matrix root and central differences."""
    a, b = drawn(1, counts[0], dims), drawn(2, counts[1], dims)
    rng = np.random.default_rng(3)
    changes = [rng.normal(size=count) for count in counts]
    changes = [change - change.mean() for change in changes]

    def distance(step):
        (m, s), (n, u) = (
            weighted(x, 1 + step * change) for x, change in zip((a, b), changes, strict=True)
        )
        root = scipy.linalg.sqrtm(s @ u).real
        return (m - n) @ (m - n) + np.trace(s + u - 2 * root)

    found = influence(a, b)
    assert found.distance == pytest.approx(frechet_distance(a, b), rel=1e-12)
    slope = (distance(1e-4) - distance(-1e-4)) / 2e-4
    assert changes[0] @ found.of_a + changes[1] @ found.of_b == pytest.approx(slope, rel=1e-5)


def weighted(x, weights):
    """Mean and covariance, which at weights of 1 is the unbiased one."""
    mean = weights @ x / weights.sum()
    return mean, (weights[:, None] * (x - mean)).T @ (x - mean) / (len(x) - 1)


def test_bias_of_the_counts():
    """Of two sets of one Gaussian it is their distance: to second order in the moments' errors.

    |m_a - m_b|² is 2 D / N on average, and the rest |S_a - S_b|² / 4, D (D + 1) / (2 (N - 1)).
    """
    count, dims = 300, 8
    expected = 2 * dims / count + dims * (dims + 1) / (2 * (count - 1))
    rng = np.random.default_rng(0)
    kept = [halves(count, 8, rng)[1:] for _ in range(2)]
    draws = [rng.normal(size=(2, count, dims)) for _ in range(40)]
    found = [count_bias(*pair, *kept) for pair in draws]
    assert np.mean(found) == pytest.approx(expected, rel=0.05)
    assert np.mean([frechet_distance(*pair) for pair in draws]) == pytest.approx(expected, rel=0.05)

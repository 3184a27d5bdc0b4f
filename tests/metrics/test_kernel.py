"""The kernel distance against loops, closed forms and its own laws."""

import itertools
import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.metrics import kernel as module
from diffjax.metrics.kernel import kernel_distance, squared_mmd

FEATURES = hnp.arrays(
    np.float64, st.tuples(st.integers(2, 9), st.just(3)), elements=st.floats(-10, 10)
)


def by_loops(a, b):
    """The definition, pair by pair."""

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(x):
        return np.mean([k(x[i], x[j]) for i, j in itertools.permutations(range(len(x)), 2)])

    return within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])


def whole(a, b):
    """Of all rows."""
    return squared_mmd(a, b, np.ones((1, len(a)), bool), np.ones((1, len(b)), bool))[0]


@given(FEATURES, FEATURES)
def test_loops(a, b):
    np.testing.assert_allclose(whole(a, b), by_loops(a, b), rtol=1e-9, atol=1e-6)


def test_wide_features():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 1, (20, 300)), rng.uniform(0, 1.2, (31, 300))
    assert whole(a, b) == pytest.approx(by_loops(a, b), rel=1e-9)


def test_unbiased():
    """Over all draws of two from a few numbers, the mean is the distance of those numbers' laws.

    In one dimension the kernel compares three moments: MMD² = Σ C(3, k) (E x^k - E y^k)².
    """
    x, y = np.array([-0.5, 0.25, 2.0]), np.array([1.0, 0.0])
    expected = sum(math.comb(3, k) * (np.mean(x**k) - np.mean(y**k)) ** 2 for k in (1, 2, 3))
    draws = itertools.product(itertools.product(x, repeat=2), itertools.product(y, repeat=2))
    found = [whole(np.array(a)[:, None], np.array(b)[:, None]) for a, b in draws]
    assert len(found) == 9 * 4
    assert np.mean(found) == pytest.approx(expected, rel=1e-12)


def test_subsets_are_of_the_rows_that_are_chosen():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(10, 4)), rng.normal(1, 1, (12, 4))
    in_a, in_b = rng.permuted(np.arange(20).reshape(2, 10) % 10 < 6, axis=1), np.ones((2, 12), bool)
    in_b[1, 3:6] = False
    expected = [by_loops(a[x], b[y]) for x, y in zip(in_a, in_b, strict=True)]
    np.testing.assert_allclose(squared_mmd(a, b, in_a, in_b), expected, rtol=1e-9)


def test_mean_and_deviation_over_subsets():
    """All that there are, of two rows: drawn often, each is there as often."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(4, 3)), rng.normal(1, 1, (5, 3))
    pairs = [[list(p) for p in itertools.combinations(range(len(x)), 2)] for x in (a, b)]
    every = [by_loops(a[x], b[y]) for x, y in itertools.product(*pairs)]
    found = kernel_distance(a, b, subsets=5000, subset_size=2)
    assert found.mean == pytest.approx(np.mean(every), rel=0.05)
    assert found.deviation == pytest.approx(np.std(every), rel=0.05)
    assert found.mean == pytest.approx(whole(a, b), rel=0.05), "which are unbiased as well"


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(61, 7)), rng.normal(size=(83, 7))
    subsets = rng.random((4, 61)) < 0.5, rng.random((4, 83)) < 0.5
    before = squared_mmd(a, b, *subsets)
    for chunk in (1, 1000):
        monkeypatch.setattr(module, "CHUNK", chunk)
        np.testing.assert_allclose(squared_mmd(a, b, *subsets), before, rtol=1e-9)


def test_what_has_no_distance():
    rows = np.zeros((5, 3))
    for a, options, message in (
        (rows, {"subset_size": 6}, "at least 6"),
        (rows, {}, "at least 1000"),
        (rows[:1], {"subset_size": 1}, "at least 2"),
        (np.full((5, 3), np.inf), {"subset_size": 5}, "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            kernel_distance(a, rows, **options)

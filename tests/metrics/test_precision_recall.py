"""Precision and recall against brute force, and where they are known."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from diffjax.metrics import neighbours
from diffjax.metrics.precision_recall import precision_recall

# Whole numbers: many points at equal distances, and some that coincide.
POINTS = hnp.arrays(
    np.float64, st.tuples(st.integers(4, 15), st.just(2)), elements=st.integers(-3, 3).map(float)
)


def brute_force(reference, samples, k):
    """The definition, point by point, after SciPy's distances."""

    def covered(points, centres):
        radii = np.sort(cdist(centres, centres), axis=1)[:, k]
        return np.mean([np.any(row <= radii) for row in cdist(points, centres)])

    return covered(samples, reference), covered(reference, samples)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("counts", "dims"), [((50, 80), 3), ((300, 200), 64)])
def test_brute_force(counts, dims, k):
    rng = np.random.default_rng(dims + k)
    reference = rng.normal(size=(counts[0], dims))
    samples = rng.normal(0.3, 0.9, size=(counts[1], dims))
    found = precision_recall(reference, samples, neighbours=k)
    assert found == brute_force(reference, samples, k)
    assert 0 < found.recall < 1


@given(POINTS, POINTS)
def test_ties_and_points_that_coincide(reference, samples):
    assert precision_recall(reference, samples) == brute_force(reference, samples, 3)


@given(POINTS, POINTS)
def test_precision_is_recall_the_other_way_round(reference, samples):
    assert precision_recall(reference, samples) == precision_recall(samples, reference)[::-1]


@given(hnp.arrays(np.float64, (9, 4), elements=st.floats(-1e3, 1e3)))
def test_one_for_itself(points):
    assert precision_recall(points, points[::-1]) == (1, 1)


def test_zero_for_sets_far_apart():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 5))
    assert precision_recall(points, points + 100) == (0, 0)


def test_samples_of_one_of_two_clusters():
    """They are good, and half of the reference is missed."""
    rng = np.random.default_rng(0)
    cluster = rng.uniform(size=(200, 2))
    reference = np.concatenate([cluster, cluster + 50])
    samples = rng.uniform(size=(200, 2))
    found = precision_recall(reference, samples)
    assert found.precision > 0.9
    assert 0.45 < found.recall <= 0.5


def test_collapse_to_a_point():
    """Precise, if the point is a real one, and of no recall but of that point."""
    reference = np.random.default_rng(0).normal(size=(50, 8))
    samples = np.repeat(reference[:1], 50, axis=0)
    assert precision_recall(reference, samples) == (1, 1 / 50)


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    reference, samples = rng.normal(size=(61, 7)), rng.normal(0.2, 1, size=(83, 7))
    whole = precision_recall(reference, samples)
    for chunk in (1, 1000, 5000):
        monkeypatch.setattr(neighbours, "CHUNK", chunk)
        assert precision_recall(reference, samples) == whole


def test_more_points_than_neighbours_are_needed():
    with pytest.raises(ValueError, match="at least 4"):
        precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))

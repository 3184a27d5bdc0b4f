"""Density and coverage against brute force, and where they are known."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from diffjax.metrics import neighbours
from diffjax.metrics.density_coverage import density_coverage

# Whole numbers: many points at equal distances, and some that coincide.
POINTS = hnp.arrays(
    np.float64, st.tuples(st.integers(6, 15), st.just(2)), elements=st.integers(-3, 3).map(float)
)


def brute_force(reference, samples, k):
    """The definition, ball by ball, after SciPy's distances."""
    radii = np.sort(cdist(reference, reference), axis=1)[:, k]
    inside = cdist(samples, reference) <= radii
    return inside.sum() / (k * len(samples)), np.mean([column.any() for column in inside.T])


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(("counts", "dims"), [((50, 80), 3), ((300, 200), 64)])
def test_brute_force(counts, dims, k):
    rng = np.random.default_rng(dims + k)
    reference = rng.normal(size=(counts[0], dims))
    samples = rng.normal(0.3, 0.9, size=(counts[1], dims))
    found = density_coverage(reference, samples, neighbours=k)
    assert found == pytest.approx(brute_force(reference, samples, k), rel=1e-12)
    assert 0 < found.coverage < 1


@given(POINTS, POINTS)
def test_ties_and_points_that_coincide(reference, samples):
    found = density_coverage(reference, samples)
    assert found == pytest.approx(brute_force(reference, samples, 5), rel=1e-12)


def test_of_one_distribution():
    """Density is 1 on average, and coverage 1 - 2^-k where there are as many samples."""
    rng = np.random.default_rng(0)
    found = [density_coverage(*rng.normal(size=(2, 500, 2)), neighbours=2) for _ in range(40)]
    density, coverage = np.mean(found, axis=0)
    assert density == pytest.approx(1, abs=0.02)
    assert coverage == pytest.approx(1 - 2**-2, abs=0.02)


def test_an_outlier_among_the_reference_lifts_precision_but_hardly_density():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(200, 2))
    reference[0] = 40
    far = rng.normal(20, 1, size=(200, 2))
    found = density_coverage(reference, far)
    assert found.density == pytest.approx(1 / 5, abs=0.01)
    assert found.coverage == pytest.approx(1 / 200)


def test_samples_of_one_of_two_clusters():
    rng = np.random.default_rng(0)
    cluster = rng.uniform(size=(200, 2))
    found = density_coverage(np.concatenate([cluster, cluster + 50]), rng.uniform(size=(400, 2)))
    assert found.density > 0.9
    assert 0.45 < found.coverage <= 0.5


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    reference, samples = rng.normal(size=(61, 7)), rng.normal(0.2, 1, size=(83, 7))
    whole = density_coverage(reference, samples)
    for chunk in (1, 1000):
        monkeypatch.setattr(neighbours, "CHUNK", chunk)
        assert density_coverage(reference, samples) == whole


def test_more_points_than_neighbours_are_needed():
    with pytest.raises(ValueError, match="at least 6"):
        density_coverage(np.zeros((5, 2)), np.zeros((9, 2)))

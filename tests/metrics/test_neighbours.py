"""Distances and nearest neighbours against SciPy's."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from diffjax.metrics import neighbours
from diffjax.metrics.neighbours import distances, nearest, radii


def two_clusters():
    """A million apart and a thousandth wide: |a|² + |b|² - 2ab would be noise within them."""
    points = np.random.default_rng(0).normal(size=(40, 5)) * 1e-3
    points[20:] += 1e6
    points[3] = points[7]
    return points


@pytest.mark.parametrize("chunk", [neighbours.CHUNK, 30])
def test_distances(chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    points = two_clusters()
    found = np.concatenate(list(distances(points, points[5:])))
    expected = cdist(points, points[5:]) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[3, 2] == 0, "points that coincide"


def test_nearest():
    points = np.random.default_rng(1).normal(size=(50, 3))
    expected = cdist(points, points)
    found = nearest(points, points, 6)
    np.testing.assert_array_equal(found.which, expected.argsort(axis=1)[:, :6])
    np.testing.assert_allclose(found.squared, np.sort(expected**2, axis=1)[:, :6], rtol=1e-9)
    assert nearest(points, points, 99).which.shape == (50, 50)


def test_radii_are_of_the_points_kept():
    """From distances among all: another point may be between, and is passed over."""
    points = np.random.default_rng(0).normal(size=(80, 3))
    kept = np.random.default_rng(1).permutation(80) < 40
    alone = np.sort(cdist(points[kept], points[kept]) ** 2, axis=1)[:, 5]
    np.testing.assert_allclose(radii(nearest(points, points, 64), 5, kept), alone, rtol=1e-9)

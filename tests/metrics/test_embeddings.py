"""Geometry of embeddings: closed forms on the sphere, SciPy, and sums over pairs by hand."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from diffjax.metrics.embeddings import (
    alignment,
    effective_rank,
    modality_gap,
    normalised,
    uniformity,
)

BASIS = np.eye(4, dtype=np.float32)


def rows(seed, count=40, width=7):
    return np.random.default_rng(seed).normal(1, 1, (count, width)).astype(np.float32)


def unit(x):
    return x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)


# Few shapes, each of which is compiled.
values = hnp.arrays(
    np.float32, st.sampled_from([(2, 1), (3, 5), (6, 4)]), elements=st.floats(-9, 9, width=16)
)


@given(values)
def test_lengths_are_one_or_zero(x):
    lengths = np.linalg.norm(np.asarray(normalised(x), np.float64), axis=1)
    np.testing.assert_allclose(lengths, (x != 0).any(1), atol=1e-6)


def test_zero_rows_have_slopes():
    slope = jax.grad(lambda x: (normalised(x)[:, 0]).sum())(jnp.zeros((1, 3)))
    assert np.isfinite(slope).all()


def test_half_precision_does_not_overflow():
    np.testing.assert_allclose(normalised(np.full((1, 4), 60_000, np.float16)), [[0.5] * 4])


@pytest.mark.parametrize(
    ("y", "expected"), [(BASIS, 0), (-BASIS, 4), (np.roll(BASIS, 1, 0), 2), (3 * BASIS, 0)]
)
def test_alignment_of_basis_vectors(y, expected):
    assert float(alignment(2 * BASIS, y)) == pytest.approx(expected)


@given(values, st.integers(0, 9))
def test_alignment_is_a_function_of_the_mean_cosine(x, seed):
    x, y = x + np.float32(10), rows(seed, *x.shape)
    expected = 2 - 2 * (unit(x) * unit(y)).sum(1).mean()
    assert float(alignment(x, y)) == pytest.approx(expected, abs=1e-5)


def test_uniformity_against_all_distances():
    x = rows(0)
    expected = np.log(np.exp(-2 * distance.pdist(unit(x), "sqeuclidean")).mean())
    assert float(uniformity(x)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("x", "expected"),
    [(np.ones((5, 3), np.float32), 0), (BASIS, -4), (np.array([[1.0], [-3.0]], np.float32), -8)],
)
def test_uniformity_of_points_at_one_distance(x, expected):
    assert float(uniformity(x)) == pytest.approx(expected, abs=1e-5)


def test_uniformity_of_one_point_is_not_a_number():
    assert np.isnan(uniformity(BASIS[:1]))


def test_uniformity_reaches_that_of_the_uniform_law():
    """On the circle |x - y|² = 2 - 2 cos a, so the mean is exp(-4) I0(4)."""
    angle = 2 * np.pi * np.arange(2001) / 2001
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    assert float(uniformity(x)) == pytest.approx(np.log(np.i0(4.0)) - 4, abs=5e-3)


def test_modality_gap():
    assert float(modality_gap(BASIS[:1], -BASIS[:1])) == pytest.approx(2)
    assert float(modality_gap(BASIS, BASIS[::-1])) == pytest.approx(0, abs=1e-6)
    assert float(modality_gap(5 * BASIS[:1], BASIS[1:2])) == pytest.approx(np.sqrt(2))
    x, y = rows(1), rows(2, 12) - 3
    expected = distance.euclidean(unit(x).mean(0), unit(y).mean(0))
    assert float(modality_gap(x, y)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("directions", [1, 2, 4])
def test_effective_rank_of_equal_singular_values(directions):
    """Each direction and its opposite: the mean is 0, and all singular values are equal."""
    x = np.concatenate([BASIS[:directions], -BASIS[:directions]])
    assert float(effective_rank(x)) == pytest.approx(directions, rel=1e-5)


def test_effective_rank_is_the_exponential_of_an_entropy():
    x = unit(rows(3))
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    assert float(effective_rank(rows(3))) == pytest.approx(
        np.exp(stats.entropy(singular)), rel=1e-4
    )


@given(values)
def test_effective_rank_has_bounds(x):
    found = float(effective_rank(x))
    assert 1 - 1e-5 <= found <= min(x.shape) + 1e-3


def test_effective_rank_of_equal_rows():
    assert float(effective_rank(np.repeat(BASIS[:1], 5, 0))) == 1


def test_jitted_as_well():
    x, y = rows(4), rows(5)
    for function, given_ in (
        (alignment, (x, y)), (uniformity, (x,)), (modality_gap, (x, y)), (effective_rank, (x,)),
    ):  # fmt: skip
        np.testing.assert_allclose(jax.jit(function)(*given_), function(*given_), rtol=1e-5)

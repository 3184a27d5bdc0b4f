"""Windows of a canvas against denoisers that are known in closed form, and against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import Gaussian, Mixture

from diffjax.guidance.tiles import covering, tiled, windows
from diffjax.process import expand
from diffjax.randomness import normal, sample_keys
from diffjax.schedules.cosine import Cosine
from diffjax.typing import Prediction

SIZE, SHAPE = 4, (2, 7, 10, 3)
CORNERS = covering(*SHAPE[1:3], SIZE, 2)
X = normal(sample_keys(jax.random.key(0), 0, SHAPE[0]), SHAPE[1:])
TIMES = jnp.asarray([0.3, 0.7])


def of_windows(denoise):
    return lambda x, t, corners: denoise(x, t)


def shares(corners):
    """Of each window, its share of every pixel of the canvas, by a loop in float64."""
    ramp = 1 - np.abs(np.arange(SIZE) - (SIZE - 1) / 2) / ((SIZE + 1) / 2)
    found = np.zeros((len(corners), *SHAPE[1:3]))
    for share, (row, column) in zip(found, corners, strict=True):
        share[row : row + SIZE, column : column + SIZE] = np.outer(ramp, ramp)
    return found / found.sum(0)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(1, 8))
def test_windows_cover_every_pixel(more, wider, size, step):
    step = min(step, size)
    height, width = size + more - 1, size + wider - 1
    corners, seen = covering(height, width, size, step), np.zeros((height, width), int)
    for row, column in corners:
        part = seen[row : row + size, column : column + size]
        assert part.shape == (size, size)
        part += 1
    assert seen.all()
    assert len({*map(tuple, corners)}) == len(corners)
    for starts in corners.T:
        assert (np.diff(np.unique(starts)) <= step).all()


@pytest.mark.parametrize("t", [jnp.asarray(0.4), TIMES], ids=["one", "each"])
def test_what_looks_at_pixels_alone_is_as_on_the_whole(t):
    """Each sample with its own time, however many windows are computed at once."""
    denoise = Gaussian(Cosine()).denoise
    for at_once in (1, 5, 100):
        found = jax.jit(tiled(of_windows(denoise), CORNERS, SIZE, at_once))(X, t)
        chex.assert_trees_all_close(found, denoise(X, t), atol=1e-6)


def test_a_pixel_is_the_weighted_mean_of_its_windows():
    """Weights fall linearly to a window's edges; the windows' order changes nothing."""

    def denoise(x, t, corners):
        told = jnp.repeat(corners.sum(1) * 1.0, len(X))  # known of the window's place alone
        flat = x.mean((1, 2, 3)) + told
        return Prediction(jnp.broadcast_to(expand(flat, x), x.shape), x, x)

    mixed = np.random.default_rng(0).permutation(CORNERS)
    made = [jax.jit(tiled(denoise, corners, SIZE, 3))(X, TIMES) for corners in (CORNERS, mixed)]
    chex.assert_trees_all_close(made[1], made[0], atol=1e-5)
    chex.assert_trees_all_close(made[0].eps, X, atol=1e-6)
    chex.assert_trees_all_close(made[0].fraction, X, atol=1e-6)
    x, wanted = np.asarray(X, np.float64), 0.0
    for share, (row, column) in zip(shares(CORNERS), CORNERS, strict=True):
        mean = x[:, row : row + SIZE, column : column + SIZE].mean((1, 2, 3)) + row + column
        wanted = wanted + mean[:, None, None] * share
    np.testing.assert_allclose(made[0].x0, np.repeat(wanted[..., None], 3, -1), atol=1e-5)


def test_means_keep_x0_and_eps_together():
    """Of a denoiser that looks at whole windows: x = alpha x0 + sigma eps, as without windows."""
    mixture = Mixture(Cosine())
    found = jax.jit(tiled(of_windows(mixture.denoise), CORNERS, SIZE, 4))(X, TIMES)
    alpha, sigma = (expand(c, X) for c in Cosine().alpha_sigma(TIMES))
    np.testing.assert_allclose(alpha * found.x0 + sigma * found.eps, X, atol=1e-5)
    assert float(jnp.abs(found.x0 - mixture.denoise(X, TIMES).x0).max()) > 0.01


def test_one_window_is_the_denoiser_itself():
    denoise, x = Mixture(Cosine()).denoise, X[:, :SIZE, :SIZE]
    found = jax.jit(tiled(of_windows(denoise), covering(SIZE, SIZE, SIZE, 2), SIZE, 8))(x, TIMES)
    chex.assert_trees_all_close(found, denoise(x, TIMES), atol=1e-6)


def test_no_more_windows_are_computed_at_once_than_asked_for():
    seen = []

    def denoise(x, t, corners):
        seen.append((x.shape, t.shape, corners.shape))
        return Prediction(x, x)

    jax.eval_shape(tiled(denoise, CORNERS, SIZE, 3), X, TIMES)
    assert set(seen) == {((6, SIZE, SIZE, 3), (6,), (3, 2))}


def test_windows_are_those_of_all_samples_at_one_corner_then_at_the_next():
    found = windows(X, jnp.asarray([[1, 2], [3, 6]]), SIZE)
    wanted = np.concatenate([X[:, 1:5, 2:6], X[:, 3:7, 6:10]])
    np.testing.assert_array_equal(found, wanted)

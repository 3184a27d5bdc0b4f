"""SSIM against SciPy's Gaussian filter in float64, and where it is known."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from diffjax.errors import UserError
from diffjax.metrics.ssim import ssim

SHAPE = (2, 13, 17, 2)
compiled = jax.jit(ssim, static_argnums=2)
PIXELS = st.floats(-1, 1, width=32)
IMAGES = hnp.arrays(np.float32, SHAPE, elements=PIXELS, fill=st.just(np.float32(0.25)))


def by_scipy(x, y, span):
    """Wang et al. 2004, eq. 13, 11 pixels are 3.5 deviations either side."""
    x, y = np.float64(x), np.float64(y)

    def local(a):
        found = scipy.ndimage.gaussian_filter(a, 1.5, truncate=3.5, axes=(1, 2))
        return found[:, 5:-5, 5:-5]

    mx, my = local(x), local(y)
    vx, vy, cov = local(x * x) - mx**2, local(y * y) - my**2, local(x * y) - mx * my
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return index.mean((1, 2, 3))


@given(IMAGES, IMAGES)
def test_is_scipys(x, y):
    found = compiled(x, y, 2)
    np.testing.assert_allclose(found, by_scipy(x, y, 2), atol=2e-4)
    assert found.max() <= 1 + 1e-4


@pytest.mark.parametrize("span", [1, 2, 255])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_is_scipys_on_noisy_pictures_of_any_range(span, noise):
    """A larger picture is not needed: each place sees 11 x 11 pixels."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, span, SHAPE)
    y = np.clip(x + rng.normal(0, noise * span, SHAPE), 0, span)
    found = compiled(x.astype(np.float32), y.astype(np.float32), span)
    np.testing.assert_allclose(found, by_scipy(x, y, span), atol=1e-5)
    assert 0.1 < float(found.min()) < 1


def test_equal_images_have_1_and_constants_the_luminance_alone():
    x = np.random.default_rng(1).uniform(-1, 1, SHAPE).astype(np.float32)
    np.testing.assert_allclose(compiled(x, x, 2), 1, atol=1e-6)
    a, b = 0.5, -0.25
    expected = (2 * a * b + 0.02**2) / (a**2 + b**2 + 0.02**2)
    found = compiled(np.full(SHAPE, a, np.float32), np.full(SHAPE, b, np.float32), 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_its_gradient_by_central_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        x, y, way = (jnp.asarray(rng.uniform(-1, 1, (1, 11, 12, 1))) for _ in range(3))
        along = jax.jit(lambda step: ssim(x + step * way, y)[0])
        expected = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(along)(0.0), expected, rtol=1e-6)


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(UserError, match="10x12 have no SSIM: its window has 11x11"):
        ssim(jnp.zeros((1, 10, 12, 1)), jnp.zeros((1, 10, 12, 1)))

"""Figures of reconstructions, where each image's error is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.metrics.reconstruction import image_errors, reconstruction_figures

RNG = np.random.default_rng(0)
OFF = RNG.uniform(0.05, 0.4, 21).astype(np.float32)  # each image's constant error
IMAGES = np.broadcast_to(RNG.uniform(-0.5, 0.5, (21, 1, 1, 1)), (21, 12, 11, 1))
IMAGES = (IMAGES + RNG.uniform(-0.1, 0.1, IMAGES.shape)).astype(np.float32)


def mean_distance(x, y):
    return 2 * jnp.abs(x - y).mean((1, 2, 3))


@pytest.fixture(scope="module")
def errors():
    found = IMAGES + OFF[:, None, None, None]
    return jax.jit(lambda x, y: image_errors(x, y, mean_distance))(found, IMAGES)


def test_each_images_error(errors):
    np.testing.assert_allclose(errors["mse"], OFF**2, rtol=1e-4)
    np.testing.assert_allclose(errors["perceptual"], 2 * OFF, rtol=1e-4)
    assert errors["ssim"].shape == (21,)
    small = jnp.asarray(IMAGES[:, :10, :10])
    assert set(image_errors(small, small)) == {"mse"}


def test_figures_are_those_of_the_mean_errors(errors):
    figures = reconstruction_figures(jax.device_get(errors))
    assert set(figures) == {"psnr", "ssim", "perceptual"}
    expected = 10 * np.log10(4 / np.mean(np.float64(OFF) ** 2))
    assert figures["psnr"].value == pytest.approx(expected, rel=1e-5)
    assert figures["perceptual"].value == pytest.approx(2 * OFF.mean(), rel=1e-5)
    for value, (low, high) in figures.values():
        assert low < value < high


def test_intervals_are_as_wide_as_the_central_limit_theorem_says():
    """1.96 deviations of a mean either side, and for PSNR 10 / ln 10 of those over the mean."""
    values = np.random.default_rng(1).gamma(4, 0.01, 400)
    figures = reconstruction_figures({"mse": values, "perceptual": values})
    reach = 1.96 * values.std() / np.sqrt(len(values))
    low, high = figures["perceptual"].interval
    assert (high - low) / 2 == pytest.approx(reach, rel=0.2)
    low, high = figures["psnr"].interval
    assert (high - low) / 2 == pytest.approx(10 / np.log(10) * reach / values.mean(), rel=0.2)


def test_exact_reconstructions_have_infinite_psnr():
    figures = reconstruction_figures({"mse": np.zeros(4), "ssim": np.ones(4)})
    assert figures["psnr"] == (np.inf, (np.inf, np.inf))
    assert figures["ssim"] == (1, (1, 1))


def test_one_image_has_no_interval():
    with pytest.raises(ValueError, match="2 images or more, not 1"):
        reconstruction_figures({"mse": np.zeros(1)})

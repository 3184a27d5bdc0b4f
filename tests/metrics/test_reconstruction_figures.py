"""Figures of reconstructions, where each image's error is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.metrics.reconstruction import make_errors, reconstruction_figures

RNG = np.random.default_rng(0)
OFF = RNG.uniform(0.05, 0.4, 21).astype(np.float32)  # each image's constant error
IMAGES = np.broadcast_to(RNG.uniform(-0.5, 0.5, (21, 1, 1, 1)), (21, 12, 11, 1))
IMAGES = (IMAGES + RNG.uniform(-0.1, 0.1, IMAGES.shape)).astype(np.float32)


def mean_distance(weights, x, y):
    return weights * jnp.abs(x - y).mean((1, 2, 3))


def marked(images):
    """Images whose first pixel says which they are."""
    images = images.copy()
    images[:, 0, 0, 0] = np.arange(len(images)) / 64
    return images


def shifted(params, images):
    """Adds to each image its own of `params`."""
    which = jnp.round(64 * images[:, 0, 0, 0]).astype(int)
    return images + params[which][:, None, None, None]


@pytest.fixture(scope="module")
def errors():
    measure = make_errors(shifted, 8, mean_distance)
    return measure(OFF, np.float32(2), marked(IMAGES))


def test_each_images_error_whatever_the_batches(errors):
    np.testing.assert_allclose(errors["mse"], OFF**2, rtol=1e-4)
    np.testing.assert_allclose(errors["lpips"], 2 * OFF, rtol=1e-4)
    assert errors["ssim"].shape == (21,)
    whole = make_errors(shifted, 21)(OFF, {}, marked(IMAGES))
    assert set(whole) == {"mse", "ssim"}
    np.testing.assert_allclose(whole["ssim"], errors["ssim"], rtol=1e-5)


def test_reconstructions_are_cut_to_the_range_of_images():
    measure = make_errors(lambda scale, images: scale * jnp.sign(images), 3)
    found = measure(np.float32(5), {}, np.sign(IMAGES[:3]))
    np.testing.assert_array_equal(found["mse"], 0)


def test_figures_are_those_of_the_mean_errors(errors):
    figures = reconstruction_figures(errors)
    assert set(figures) == {"psnr", "ssim", "lpips"}
    expected = 10 * np.log10(4 / np.mean(np.float64(OFF) ** 2))
    assert figures["psnr"].value == pytest.approx(expected, rel=1e-5)
    assert figures["lpips"].value == pytest.approx(2 * OFF.mean(), rel=1e-5)
    for value, (low, high) in figures.values():
        assert low < value < high


def test_intervals_are_as_wide_as_the_central_limit_theorem_says():
    """1.96 deviations of a mean either side, and for PSNR 10 / ln 10 of those over the mean."""
    values = np.random.default_rng(1).gamma(4, 0.01, 400)
    figures = reconstruction_figures({"mse": values, "lpips": values})
    reach = 1.96 * values.std() / np.sqrt(len(values))
    low, high = figures["lpips"].interval
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

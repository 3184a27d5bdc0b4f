"""Blurs and ways back against dense linear algebra and SciPy."""

import numpy as np
import pytest
import scipy.ndimage

from diffjax.deconvolution import (
    convolve,
    fit_kernel,
    gaussian,
    inverse_filter,
    mean_power,
    motion,
    observe,
    spread,
    transposed,
    wiener,
)

RNG = np.random.default_rng(0)
SIDE = 8
IMAGES = RNG.normal(size=(3, SIDE, SIDE))
LOPSIDED = RNG.normal(size=(3, 3))  # unlike itself turned round
STRIDES = [1, 2, 4]


def matrix_of(linear, side=SIDE):
    """The matrix of a linear function of images."""
    unit = np.eye(side**2).reshape(-1, side, side)
    return linear(unit).reshape(side**2, -1).T


def test_a_product_of_spectra_is_a_periodic_convolution():
    for size in (1, 3, 7, 11):  # also larger than the image
        kernel = RNG.normal(size=(size, size))
        expected = [scipy.ndimage.convolve(image, kernel, mode="wrap") for image in IMAGES]
        np.testing.assert_allclose(convolve(IMAGES, kernel), expected, atol=1e-12)


def test_a_gaussian_has_its_variance():
    kernel = gaussian(2.0)
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1)
    assert kernel.sum(0) @ places**2 == pytest.approx(4, rel=0.05)
    np.testing.assert_allclose(kernel, kernel.T)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_a_motion_has_its_length_and_direction(degrees):
    """Its covariance is length² / 12 along the way and nothing across, pixels aside."""
    kernel = motion(12, degrees)
    rows, columns = np.indices(kernel.shape) - len(kernel) // 2
    way = np.radians(degrees)
    along = np.cos(way) * columns - np.sin(way) * rows
    across = np.sin(way) * columns + np.cos(way) * rows
    assert kernel.sum() == pytest.approx(1)
    assert (kernel * along).sum() == pytest.approx(0, abs=0.05)
    assert (kernel * along**2).sum() == pytest.approx(12, rel=0.05)
    assert (kernel * across**2).sum() < 0.2


@pytest.mark.parametrize("stride", STRIDES)
def test_observing_is_every_other_pixel_of_the_blurred(stride):
    expected = [
        scipy.ndimage.convolve(image, LOPSIDED, mode="wrap")[::stride, ::stride] for image in IMAGES
    ]
    np.testing.assert_allclose(observe(IMAGES, LOPSIDED, stride), expected, atol=1e-12)


@pytest.mark.parametrize("stride", STRIDES)
def test_transposed_is_the_transposed_matrix(stride):
    forth = matrix_of(lambda x: observe(x, LOPSIDED, stride))
    back = matrix_of(lambda y: transposed(y, LOPSIDED, stride), SIDE // stride)
    np.testing.assert_allclose(back, stride**2 * forth.T, atol=1e-12)


@pytest.mark.parametrize("stride", STRIDES)
def test_a_flat_image_keeps_its_mean(stride):
    flat = np.full((1, SIDE, SIDE), 0.7)
    back = transposed(observe(flat, gaussian(1.0), stride), gaussian(1.0), stride)
    assert back.mean() == pytest.approx(0.7)


@pytest.mark.parametrize("stride", STRIDES)
def test_the_inverse_filter_is_the_pseudo_inverse(stride):
    forth = matrix_of(lambda x: observe(x, LOPSIDED, stride))
    back = matrix_of(lambda y: inverse_filter(y, LOPSIDED, stride), SIDE // stride)
    np.testing.assert_allclose(back, np.linalg.pinv(forth), atol=1e-9)


def test_the_inverse_filter_undoes_a_blur_and_leaves_what_is_lost():
    np.testing.assert_allclose(
        inverse_filter(observe(IMAGES, gaussian(0.7)), gaussian(0.7)), IMAGES, atol=1e-6
    )
    box = np.pad(np.full((1, 2), 0.5), ((1, 1), (1, 0)))  # of neighbours: no sign that alternates
    alternating = np.broadcast_to((-1.0) ** np.arange(SIDE), (1, SIDE, SIDE))
    np.testing.assert_allclose(inverse_filter(observe(alternating, box), box), 0, atol=1e-9)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_wieners_filter_is_the_best_linear_estimate(stride, noise):
    """C Aᵀ (A C Aᵀ + noise I)⁻¹, C the covariance of stationary images of that power."""
    power = mean_power(RNG.normal(size=(50, SIDE, SIDE)) * 3 + 1)
    covariance = matrix_of(lambda x: np.fft.ifft2(power / SIDE**2 * np.fft.fft2(x)).real)
    forth = matrix_of(lambda x: observe(x, LOPSIDED, stride))
    seen = forth @ covariance @ forth.T + noise * np.eye(len(forth))
    back = matrix_of(lambda y: wiener(y, LOPSIDED, stride, power, noise), SIDE // stride)
    np.testing.assert_allclose(back, covariance @ forth.T @ np.linalg.inv(seen), atol=1e-8)


def test_fitting_finds_the_kernel_that_was_there():
    np.testing.assert_allclose(
        fit_kernel(IMAGES, convolve(IMAGES, LOPSIDED), 5)[1:4, 1:4], LOPSIDED, atol=1e-9
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_fitting_is_least_squares(stride):
    given, wanted = spread(IMAGES[:, ::stride, ::stride], stride), RNG.normal(size=IMAGES.shape)
    places = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    columns = np.stack([np.roll(given, place, (1, 2)).ravel() for place in places], 1)
    expected = np.linalg.lstsq(columns, wanted.ravel(), rcond=None)[0].reshape(3, 3)
    np.testing.assert_allclose(fit_kernel(given, wanted, 3), expected, atol=1e-9)

"""Structural similarity of pairs of images (Wang et al. 2004)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.models.layers import Resized
from diffjax.typing import Images

WINDOW, SIGMA = 11, 1.5  # pixels (section III.B)
K1, K2 = 0.01, 0.03  # shares of the range that keep both quotients stable


def ssim(images: Images, truth: Images, span: float | int = 2) -> Float[Array, "B"]:
    """The mean SSIM of each pair, eq. 13, at most 1, which equal images alone have.

    `span` is the range of values, 2 for images in [-1, 1]. The mean is over channels and over the
    places where the whole window of 11x11 lies in the image. It has a gradient, so that a loss may
    use it. Raises UserError for images that are smaller than the window.
    """
    height, width = images.shape[1:3]
    if min(height, width) < WINDOW:
        raise UserError(
            f"images of {height}x{width} have no SSIM: its window has {WINDOW}x{WINDOW} pixels",
            option="image_size",
        )
    mean_x, mean_y = _local(images), _local(truth)
    variances = _local(images**2) - mean_x**2 + _local(truth**2) - mean_y**2
    covariance = _local(images * truth) - mean_x * mean_y
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean((1, 2, 3))


def _local(x: Images) -> Resized:
    """The Gaussian-weighted mean around each place, eq. 14, first over rows, then over columns.

    Sums of shifted images are full float32 on every device. Convolutions on a GPU may round their
    inputs, and the variances are small differences.
    """
    weights = np.exp(-0.5 * (np.arange(WINDOW) - WINDOW // 2) ** 2 / SIGMA**2)
    weights = weights / weights.sum()
    height, width = (size - WINDOW + 1 for size in x.shape[1:3])
    zero = jnp.zeros((), x.dtype)
    rows = sum((float(w) * x[:, i : i + height] for i, w in enumerate(weights)), zero)
    return sum((float(w) * rows[:, :, i : i + width] for i, w in enumerate(weights)), zero)

"""How near an autoencoder's images come to those it was given."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.metrics.intervals import REPLICATES, Interval, halves, interval
from diffjax.metrics.psnr import decibels
from diffjax.metrics.ssim import WINDOW, ssim
from diffjax.typing import Images, Params

Errors = dict[str, Float[np.ndarray, "N"]]
Measure = Callable[[Params, Params, Float[np.ndarray, "N H W C"]], Errors]


class Figure(NamedTuple):
    """A figure of all images, and its interval of 95% over draws of the images."""

    value: float
    interval: Interval


def image_errors(
    found: Images, truth: Images, distance: Callable[[Images, Images], Array] | None = None
) -> dict[str, Float[Array, "B"]]:
    """The errors of each image: `mse`, `ssim`, and `perceptual` where there is a distance.

    Images lie in [-1, 1]. Images that are smaller than SSIM's window have no `ssim`. Raises
    UserError for images that the distance cannot take.
    """
    errors = {"mse": jnp.mean((found - truth) ** 2, (1, 2, 3))}
    if min(truth.shape[1:3]) >= WINDOW:
        errors["ssim"] = ssim(found, truth)
    return errors if distance is None else {**errors, "perceptual": distance(found, truth)}


def reconstruction_figures(errors: Errors, seed: int = 0) -> dict[str, Figure]:
    """`psnr` in dB, and `ssim` and `perceptual` where they were measured, each with its interval.

    PSNR is that of the mean squared error over all images, not the mean of each image's PSNR, which
    is infinite where one image is exact. An interval (`intervals.interval`) takes each image as an
    independent draw. Raises ValueError for fewer than two images.
    """
    count = len(errors["mse"])
    if count < 2:
        raise ValueError(f"an interval needs 2 images or more, not {count}")
    kept = halves(count, REPLICATES, np.random.default_rng(seed))
    means = {
        name: kept @ values.astype(np.float64) / kept.sum(1) for name, values in errors.items()
    }
    figures = {"psnr": _psnr(means.pop("mse"))}
    for name, values in means.items():
        figures[name] = Figure(float(values[0]), interval(values))
    return figures


def _psnr(errors: Float[np.ndarray, "R"]) -> Figure:
    """The ends are those of the error: decibels of a half with no error would be infinite."""
    low, high = interval(errors, 0)
    return Figure(decibels(float(errors[0])), Interval(decibels(high), decibels(low)))

"""How near an autoencoder's images come to those it was given."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.batches import in_batches
from diffjax.metrics.intervals import REPLICATES, Interval, halves, interval
from diffjax.metrics.lpips import Distance
from diffjax.metrics.psnr import decibels
from diffjax.metrics.ssim import ssim
from diffjax.typing import Images, Params

Errors = dict[str, Float[np.ndarray, "N"]]
Measure = Callable[[Params, Params, Float[np.ndarray, "N H W C"]], Errors]


class Figure(NamedTuple):
    """A figure of all images, and its interval of 95% over draws of the images."""

    value: float
    interval: Interval


def make_errors(
    reconstruct: Callable[[Params, Images], Images],
    batch_size: int,
    distance: Distance | None = None,
) -> Measure:
    """A compiled (params, distance's params, images in [-1, 1]) -> the errors of each image.

    `reconstruct` gets the params; what it returns is cut to [-1, 1]. The errors are `mse`, the mean
    squared error; `ssim`; and `lpips` where there is a distance. Images come in batches of one
    shape; any N from 1. Raises UserError for images that SSIM or the distance cannot take.
    """

    @jax.jit
    def of_batch(params: Params, weights: Params, images: Images) -> dict[str, Array]:
        found = jnp.clip(reconstruct(params, images), -1, 1)
        errors = {"mse": jnp.mean((found - images) ** 2, (1, 2, 3)), "ssim": ssim(found, images)}
        return errors if distance is None else {**errors, "lpips": distance(weights, found, images)}

    def errors(params: Params, weights: Params, images: Float[np.ndarray, "N H W C"]) -> Errors:
        found: Errors = in_batches(lambda rows: of_batch(params, weights, rows), images, batch_size)
        return found

    return errors


def reconstruction_figures(errors: Errors, seed: int = 0) -> dict[str, Figure]:
    """`psnr` in dB, `ssim`, and `lpips` where it was measured, each with its interval.

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

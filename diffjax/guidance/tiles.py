"""A denoiser of images larger than its network was trained on: overlapping windows, averaged."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from diffjax.batches import padded
from diffjax.typing import Denoiser, Images, Prediction, Times

Corners = Int[np.ndarray, "N 2"]  # of windows: the first row and column of each
Windows = Float[Array, "M S S C"]  # those of all samples at one corner, then at the next
OfWindows = Callable[[Windows, Times, Int[Array, "n 2"]], Prediction]


def tiled(denoise: OfWindows, corners: Corners, size: int, at_once: int) -> Denoiser:
    """At each pixel the weighted mean of the predictions of the windows that hold it.

    That is MultiDiffusion (Bar-Tal et al. 2023), on x0 and eps alike, whose weighted means keep
    x = alpha x0 + sigma eps. A window's weight falls linearly to its edges, so that one window
    fades into the next without a seam.

    denoise: of windows of size x size pixels, with their times and the corners that they are from.
    corners: those of windows that cover the images, as of `covering`, in any order. No more than
    `at_once` windows of each image are computed at a time: memory grows with that and with the
    image, not with the network's maps of the whole.
    """
    ramp = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)) / size
    weight = np.float32(ramp[:, None, None] * ramp[:, None])
    total = np.zeros((*(corners.max(0) + size), 1), np.float32)
    for row, column in corners:
        total[row : row + size, column : column + size] += weight
    count = len(corners)
    groups = np.stack([corners[rows] for _, rows in padded(count, min(at_once, count))])

    def canvas(x: Images, t: Times) -> Prediction:
        def predict(some: Int[Array, "n 2"]) -> Prediction:
            times = jnp.tile(jnp.broadcast_to(t, x.shape[:1]), len(some))
            return denoise(windows(x, some, size), times, some)

        def mean(parts: Float[Array, "G M S S C"]) -> Images:
            each = parts.reshape(-1, len(x), *parts.shape[2:])[:count]
            return _laid(weight * each, corners, total.shape) / total

        return jax.tree.map(mean, lax.map(predict, jnp.asarray(groups)))

    return canvas


def covering(height: int, width: int, size: int, step: int) -> Corners:
    """The corners of windows of size x size, `step` pixels apart or less at the far edges.

    height and width are `size` or more.
    """
    starts = [(*range(0, length - size, step), length - size) for length in (height, width)]
    return np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)


def windows(images: Images, corners: Int[Array, "n 2"], size: int) -> Windows:
    """The parts of size x size of all images at each corner."""
    form = (len(images), size, size, images.shape[-1])
    found = jax.vmap(lambda corner: lax.dynamic_slice(images, (0, *corner, 0), form))(corners)
    return found.reshape(-1, *form[1:])


def _laid(parts: Float[Array, "N B S S C"], corners: Corners, shape: tuple[int, ...]) -> Images:
    """The sum of parts of images of that height and width, each at its corner."""

    def add(
        whole: Images, at: tuple[Float[Array, "B S S C"], Int[Array, "2"]]
    ) -> tuple[Images, None]:
        part, corner = at
        place = (0, *corner, 0)
        here = lax.dynamic_slice(whole, place, part.shape)
        return lax.dynamic_update_slice(whole, here + part, place), None

    empty = jnp.zeros((parts.shape[1], *shape[:2], parts.shape[-1]))
    return lax.scan(add, empty, (parts, jnp.asarray(corners)))[0]

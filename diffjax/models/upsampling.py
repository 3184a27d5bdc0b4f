"""Five ways to double height and width, each a Linen module that gives out `channels`.

They are told apart by what a network can learn in them, and by whether the pixels of one block may
come out unlike for no reason in the image: the checkerboard (Odena et al. 2016).
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from diffjax.errors import UserError
from diffjax.models.layers import Conv1x1, Conv3x3, Resized, Upsample, repeat_pixels, start
from diffjax.typing import Images

Way = Literal["transposed", "resize_conv", "pixel_shuffle", "nearest", "bilinear"]


class Transposed(nn.Module):
    """`stride` times the size: each pixel stamps a kernel, and stamps add up where they overlap.

    The transpose of a strided convolution, and no inverse of it (Dumoulin & Visin 2016, sec. 4).
    Unless stride divides kernel, pixels get unlike numbers of stamps. Cut as torch cuts it: kernel
    3 with padding 1 and output_padding 1, 2 with none, 4 with padding 1. The kernel, HWIO as all
    are, is what is stamped, turned by half a turn; torch's is not turned.
    """

    channels: int
    kernel: int = 2
    stride: int = 2
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        """Raises UserError for a kernel that leaves pixels without any stamp."""
        if self.kernel < self.stride:
            raise UserError(
                f"a transposed convolution of kernel {self.kernel} and stride {self.stride} leaves "
                "pixels out: choose a kernel as large as the stride, or larger"
            )
        size = (self.kernel, self.kernel)
        return nn.Conv(
            self.channels, size, strides=self.stride, kernel_init=start, dtype=self.dtype,
            conv_general_dilated=stamp, name="conv",
        )(x)  # fmt: skip


def stamp(
    x: Images, kernel: Float[Array, "K K C D"], strides: Sequence[int], *_: Any, **__: Any
) -> Resized:
    """A transposed convolution; `nn.Conv` calls it with what else a convolution is told.

    One matrix product makes every pixel's stamp, filled up with zeros to whole blocks of `stride`
    pixels; stamps add up block by block. XLA's own, a convolution of an image with zeros between
    its pixels, takes several times as long for its gradient on a CPU.
    """
    (height, width), size, stride = x.shape[1:3], kernel.shape[0], strides[0]
    across = -(-size // stride)  # blocks that a stamp covers, in height as in width
    filled = jnp.pad(kernel[::-1, ::-1], 2 * ((0, across * stride - size),) + 2 * ((0, 0),))
    # In two dimensions: the gradients of a product in six take up to five times as long.
    product = einops.rearrange(x, "b h w c -> (b h w) c") @ einops.rearrange(
        filled, "(i p) (j q) c d -> c (i j p q d)", p=stride, q=stride
    )
    stamps = product.reshape(*x.shape[:3], across, across, -1)
    beyond = [(i, across - 1 - i) for i in range(across)]
    parts = [
        jnp.pad(stamps[:, :, :, i, j], ((0, 0), beyond[i], beyond[j], (0, 0)))
        for i, j in itertools.product(range(across), repeat=2)
    ]
    blocks = sum(parts[1:], start=parts[0])
    canvas = einops.rearrange(blocks, "b h w (p q d) -> b (h p) (w q) d", p=stride, q=stride)
    first = -(-(size - stride) // 2)  # what torch calls the padding is cut off
    return canvas[:, first : first + stride * height, first : first + stride * width]


class PixelShuffle(nn.Module):
    """A 3x3 convolution to four times the channels, laid out as blocks of 2x2 (Shi et al. 2016)."""

    channels: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        x = Conv3x3(4 * self.channels, dtype=self.dtype, name="conv")(x)
        return einops.rearrange(x, "b h w (c p q) -> b (h p) (w q) c", p=2, q=2)


class Interpolated(nn.Module):
    """A 1x1 convolution, then `resize`, which has nothing to learn."""

    channels: int
    resize: Callable[[Images], Resized]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        return self.resize(Conv1x1(self.channels, dtype=self.dtype, name="conv")(x))


def bilinear(x: Images) -> Resized:
    """Twice the height and width, between the centres of the four nearest pixels."""
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")


# Each is called with channels, and takes dtype and name.
WAYS: dict[Way, Callable[..., nn.Module]] = {
    "transposed": Transposed,
    "resize_conv": Upsample,
    "pixel_shuffle": PixelShuffle,
    "nearest": partial(Interpolated, resize=repeat_pixels),
    "bilinear": partial(Interpolated, resize=bilinear),
}

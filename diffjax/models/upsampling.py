"""Five ways to double height and width, each a Linen module that gives out `channels`.

They are told apart by what a network can learn in them, and by whether the pixels of one block may
come out unlike for no reason in the image: the checkerboard (Odena et al. 2016).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import einops
import jax
from flax import linen as nn

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
        before, after = _pads(self.kernel, self.stride)
        conv = partial(
            nn.ConvTranspose,
            kernel_size=(self.kernel, self.kernel),
            strides=(self.stride, self.stride),
            padding=((before, after), (before, after)),
            kernel_init=start,
        )
        return conv(self.channels, dtype=self.dtype, name="conv")(x)


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


def _pads(kernel: int, stride: int) -> tuple[int, int]:
    """Zeros around the spread-out input, so that a convolution leaves `stride` times its size.

    In torch's words padding is the least that is not too little, and output_padding the rest.
    """
    if kernel < stride:
        raise UserError(
            f"a transposed convolution of kernel {kernel} and stride {stride} leaves pixels out: "
            "choose a kernel as large as the stride, or larger"
        )
    padding = -(-(kernel - stride) // 2)
    output_padding = 2 * padding - (kernel - stride)
    return kernel - 1 - padding, kernel - 1 - padding + output_padding

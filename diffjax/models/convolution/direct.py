"""XLA's own convolution, its gradients in the one form that the CPU backend computes well.

Left to itself that backend takes the weight gradient of a 3x3 convolution at half speed, and any
gradient within a loop 20 to 60 times slower, since it knows only NHWC x HWIO -> NHWC convolutions.
Here both gradients are written as such.
"""

import dataclasses

import jax.numpy as jnp
from jax import Array, lax

from diffjax.models.convolution.window import Kernel, Pads, Pair, Tensor, Window

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: Array, w: Array, strides: Pair, pads: Pads) -> Array:
    """lax.conv_general_dilated in the layout of this library."""
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=LAYOUT)


@dataclasses.dataclass(frozen=True)
class Direct:
    """Takes every window."""

    def takes(self, window: Window) -> bool:
        return True

    def forward(self, x: Tensor, w: Kernel, window: Window) -> Tensor:
        return convolve(x, w, window.strides, window.pads)

    def input_gradient(self, dy: Tensor, w: Kernel, window: Window, size: Pair) -> Tensor:
        """dy convolved with the kernel turned round, inputs for outputs."""
        dy = _spread(dy, window.strides)
        vertical, horizontal = (
            (k - 1 - low, n + low - o)
            for k, n, o, (low, _) in zip(
                window.kernel, size, dy.shape[1:3], window.pads, strict=True
            )
        )
        return convolve(dy, jnp.flip(w, (0, 1)).swapaxes(2, 3), (1, 1), (vertical, horizontal))

    def weight_gradient(self, x: Tensor, dy: Tensor, window: Window) -> Kernel:
        """Sums over the batch and all positions: the batch takes the part of input channels."""
        dy = _spread(dy, window.strides)
        vertical, horizontal = (
            (low, o + k - 1 - n - low)
            for k, n, o, (low, _) in zip(
                window.kernel, x.shape[1:3], dy.shape[1:3], window.pads, strict=True
            )
        )
        dw = convolve(
            x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), (vertical, horizontal)
        )
        return dw.transpose(1, 2, 0, 3)


def _spread(dy: Tensor, strides: Pair) -> Tensor:
    """Zeros between the gradients, where a strided window left positions out."""
    if strides == (1, 1):
        return dy
    return lax.pad(
        dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)]
    )

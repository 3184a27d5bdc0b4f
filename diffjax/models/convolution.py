"""Two-dimensional convolution whose gradients XLA's CPU backend computes well.

Left to itself that backend takes the weight gradient of a 3x3 convolution at half speed, and any
gradient within a loop 20 to 60 times slower, since it knows only NHWC x HWIO -> NHWC convolutions.
Here both gradients are written as such. Elsewhere than on a CPU nothing is changed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

LAYOUT = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], tuple[int, int]]


def conv_general_dilated(
    x: Array,
    w: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """What Linen's Conv calls: lax.conv_general_dilated, NHWC and without dilation or groups."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], strides, padding)
    vertical, horizontal = padding
    return _conv(x, w, tuple(strides), (tuple(vertical), tuple(horizontal)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: Array, w: Array, strides: tuple[int, int], pads: Pads) -> Array:
    return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=LAYOUT)


def _forward(x: Array, w: Array, strides: tuple[int, int], pads: Pads) -> tuple[Array, Any]:
    return _conv(x, w, strides, pads), (x, w)


def _backward(strides: tuple[int, int], pads: Pads, kept: Any, dy: Array) -> tuple[Array, Array]:
    return lax.platform_dependent(
        *kept,
        dy,
        cpu=partial(_canonical_gradients, strides, pads),
        default=partial(_gradients, strides, pads),
    )


def _gradients(
    strides: tuple[int, int], pads: Pads, x: Array, w: Array, dy: Array
) -> tuple[Array, Array]:
    conv = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=pads,
        dimension_numbers=LAYOUT,
    )
    return jax.vjp(conv, x, w)[1](dy)


def _canonical_gradients(
    strides: tuple[int, int], pads: Pads, x: Array, w: Array, dy: Array
) -> tuple[Array, Array]:
    dy = _spread(dy, strides)
    kernel, size, out = w.shape[:2], x.shape[1:3], dy.shape[1:3]
    # dx is the output's gradient convolved with the kernel turned round, inputs for outputs.
    dx_pads = tuple(
        (k - 1 - low, n + low - o)
        for k, n, o, (low, _) in zip(kernel, size, out, pads, strict=True)
    )
    turned = jnp.flip(w, (0, 1)).swapaxes(2, 3)
    dx = lax.conv_general_dilated(dy, turned, (1, 1), dx_pads, dimension_numbers=LAYOUT)
    # dw sums over the batch and all positions: the batch takes the part of the input channels.
    dw_pads = tuple(
        (low, o + k - 1 - n - low)
        for k, n, o, (low, _) in zip(kernel, size, out, pads, strict=True)
    )
    dw = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), dw_pads, dimension_numbers=LAYOUT
    )
    return dx, dw.transpose(1, 2, 0, 3)


def _spread(dy: Array, strides: tuple[int, int]) -> Array:
    """Zeros between the gradients, where a strided window left positions out."""
    if strides == (1, 1):
        return dy
    return lax.pad(
        dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *((0, 0, s - 1) for s in strides), (0, 0, 0)]
    )


_conv.defvjp(_forward, _backward)

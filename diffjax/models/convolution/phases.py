"""A strided convolution as one without strides, on squares of as many pixels as it strides over."""

import dataclasses

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from diffjax.models.convolution.direct import Direct
from diffjax.models.convolution.window import Kernel, Pair, Tensor, Window

UNIT = Direct()


@dataclasses.dataclass(frozen=True)
class Phases:
    """Takes windows of equal strides above 1. The squares' pixels are channels of one place.

    A kernel of k pixels becomes one of k / stride places, rounded up, whose border is zeros. So
    what is strided over is not computed, and a large kernel is a small one over many channels.
    """

    def takes(self, window: Window) -> bool:
        return window.strides[0] == window.strides[1] > 1

    def forward(self, x: Tensor, w: Kernel, window: Window) -> Tensor:
        return UNIT.forward(_places(x, window), _kernel_of_places(w, window), _unit(window))

    def input_gradient(self, dy: Tensor, w: Kernel, window: Window, size: Pair) -> Tensor:
        unit = _unit(window)
        places = _covered(unit, (dy.shape[1], dy.shape[2]))
        kernel = _kernel_of_places(w, window)
        squares = UNIT.input_gradient(dy, kernel, unit, places)
        stride, (height, width) = window.strides[0], places
        pixels = squares.reshape(len(dy), height, width, stride, stride, -1)
        pixels = pixels.swapaxes(2, 3).reshape(len(dy), stride * height, stride * width, -1)
        ends = (
            (-low, low + n - stride * there)
            for n, there, (low, _) in zip(size, places, window.pads, strict=True)
        )
        return _cut_or_filled(pixels, *ends)

    def weight_gradient(self, x: Tensor, dy: Tensor, window: Window) -> Kernel:
        unit, stride = _unit(window), window.strides[0]
        dw = UNIT.weight_gradient(_places(x, window), dy, unit)
        (height, width), (tall, wide) = window.kernel, unit.kernel
        taps = dw.reshape(tall, wide, stride, stride, x.shape[-1], dy.shape[-1]).swapaxes(1, 2)
        return taps.reshape(stride * tall, stride * wide, *taps.shape[4:])[:height, :width]


def _unit(window: Window) -> Window:
    """The window over places."""
    height, width = (-(-k // s) for k, s in zip(window.kernel, window.strides, strict=True))
    return Window((height, width), (1, 1), ((0, 0), (0, 0)))


def _covered(unit: Window, outputs: Pair) -> Pair:
    """The places that all outputs together see."""
    height, width = (o + k - 1 for o, k in zip(outputs, unit.kernel, strict=True))
    return height, width


def _places(x: Tensor, window: Window) -> Float[Array, "B p q D"]:
    """Squares of pixels as the channels of one place, as many as the outputs see."""
    stride, size = window.strides[0], (x.shape[1], x.shape[2])
    height, width = _covered(_unit(window), window.outputs(size))
    ends = (
        (low, stride * there - n - low)
        for n, there, (low, _) in zip(size, (height, width), window.pads, strict=True)
    )
    squares = _cut_or_filled(x, *ends).reshape(len(x), height, stride, width, stride, -1)
    return squares.swapaxes(2, 3).reshape(len(x), height, width, -1)


def _kernel_of_places(w: Kernel, window: Window) -> Float[Array, "p q D K"]:
    """The kernel over places; zeros where it ends within a square."""
    stride, (height, width) = window.strides[0], _unit(window).kernel
    filled = _cut_or_filled(
        w[None].reshape(1, *w.shape[:2], -1),
        (0, stride * height - w.shape[0]), (0, stride * width - w.shape[1]),
    )  # fmt: skip
    taps = filled.reshape(height, stride, width, stride, *w.shape[2:]).swapaxes(1, 2)
    return taps.reshape(height, width, -1, w.shape[-1])


def _cut_or_filled(x: Array, vertical: Pair, horizontal: Pair) -> Array:
    """Rows and columns added at each end, or taken away where the number is below 0."""
    edges = [(0, 0, 0), (*vertical, 0), (*horizontal, 0), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), edges)

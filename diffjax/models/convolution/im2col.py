"""A convolution as matrix products of what lies under each tap of the kernel (Chellapilla 2006)."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from diffjax.models.convolution.window import Kernel, Pair, Tensor, Window


@dataclasses.dataclass(frozen=True)
class Im2col:
    """Takes every window. What is strided over is not computed, where `Direct` pads it by zeros."""

    def takes(self, window: Window) -> bool:
        return True

    def forward(self, x: Tensor, w: Kernel, window: Window) -> Tensor:
        patches = jnp.concatenate(list(_under_taps(x, window)), axis=-1)
        y = patches @ w.reshape(-1, w.shape[-1])
        return y.reshape(len(x), *window.outputs(_size(x)), -1)

    def input_gradient(self, dy: Tensor, w: Kernel, window: Window, size: Pair) -> Tensor:
        """Each tap's share put back where it was taken from."""
        shares = (jnp.einsum("bhwk,ck->bhwc", dy, w[i, j]) for i, j in _taps(window))
        put_back = (
            _put_back(share, tap, window, size)
            for tap, share in zip(_taps(window), shares, strict=True)
        )
        return functools.reduce(jnp.add, put_back)

    def weight_gradient(self, x: Tensor, dy: Tensor, window: Window) -> Kernel:
        flat = dy.reshape(-1, dy.shape[-1])
        taps = jnp.stack([patch.T @ flat for patch in _under_taps(x, window)])
        return taps.reshape(*window.kernel, *taps.shape[1:])


def _taps(window: Window) -> Iterator[Pair]:
    height, width = window.kernel
    return itertools.product(range(height), range(width))


def _size(x: Tensor) -> Pair:
    return x.shape[1], x.shape[2]


def _under_taps(x: Tensor, window: Window) -> Iterator[Float[Array, "T C"]]:
    """For each tap of the kernel, the pixels that it meets: a row an output."""
    outputs = window.outputs(_size(x))
    padded = jnp.pad(x, ((0, 0), *window.pads, (0, 0)))
    for tap in _taps(window):
        met = padded
        for axis, (start, n, s) in enumerate(zip(tap, outputs, window.strides, strict=True), 1):
            met = lax.slice_in_dim(met, start, start + (n - 1) * s + 1, s, axis)
        yield met.reshape(-1, x.shape[-1])


def _put_back(share: Tensor, tap: Pair, window: Window, size: Pair) -> Tensor:
    """Zeros wherever the tap met no pixel; what fell outside the images is cut off."""
    edges = []
    for start, n, s, (low, _), length in zip(
        tap, _size(share), window.strides, window.pads, size, strict=True
    ):
        before = start - low
        edges.append((before, length - before - (n - 1) * s - 1, s - 1))
    return lax.pad(share, jnp.zeros((), share.dtype), [(0, 0, 0), *edges, (0, 0, 0)])

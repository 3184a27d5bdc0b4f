"""Two-dimensional convolution that takes the quickest of several ways on a CPU.

The way is chosen when a program is traced, by operation, shape and batch, from a measured table
(`choice`). What a CPU is given in 16 bits it computes in 32: XLA's own in 16 bits is far slower
there. Elsewhere than on a CPU nothing is changed: XLA's own is right there.

Its gradients are ways of their own, so that JAX cannot differentiate it forwards, as `jax.jvp`
does: `forward_mode` leaves both kinds of derivatives to JAX.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from diffjax.models.convolution.choice import choose
from diffjax.models.convolution.direct import convolve
from diffjax.models.convolution.window import Window

__all__ = ["conv_general_dilated", "forward_mode"]

DILATED_OR_GROUPED = ("lhs_dilation", "rhs_dilation", "feature_group_count", "batch_group_count")
UNIT = (1, None, (1, 1))
_FORWARD_MODE = contextvars.ContextVar("_FORWARD_MODE", default=False)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """What is traced meanwhile can go through jax.jvp; its gradients are not the quickest."""
    token = _FORWARD_MODE.set(True)
    try:
        yield
    finally:
        _FORWARD_MODE.reset(token)


def conv_general_dilated(
    x: Array,
    w: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """What Linen's Conv calls: lax.conv_general_dilated in NHWC and HWIO.

    Dilated and grouped convolutions are left to XLA.
    """
    if any(options.get(name, 1) not in UNIT for name in DILATED_OR_GROUPED):
        return lax.conv_general_dilated(x, w, strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], strides, padding)
    kernel, steps = (w.shape[0], w.shape[1]), (strides[0], strides[1])
    (top, bottom), (left, right) = padding
    window = Window(kernel, steps, ((top, bottom), (left, right)))
    return (_plain if _FORWARD_MODE.get() else _conv)(x, w, window)


def _plain(x: Array, w: Array, window: Window) -> Array:
    path = choose("forward", x.shape, w.shape, window)
    with jax.named_scope("forward"):
        return _on_cpu(lambda x, w: path.forward(x, w, window), partial(_own, window=window), x, w)


_conv = jax.custom_vjp(_plain, nondiff_argnums=(2,))


def _forward(x: Array, w: Array, window: Window) -> tuple[Array, Any]:
    return _conv(x, w, window), (x, w)


def _backward(window: Window, kept: Any, dy: Array) -> tuple[Array, Array]:
    x, w = kept
    size = (x.shape[1], x.shape[2])
    to_input = choose("input_gradient", x.shape, w.shape, window)
    to_kernel = choose("weight_gradient", x.shape, w.shape, window)

    def chosen(x: Array, w: Array, dy: Array) -> tuple[Array, Array]:
        with jax.named_scope("input_gradient"):
            dx = to_input.input_gradient(dy, w, window, size)
        with jax.named_scope("weight_gradient"):
            return dx, to_kernel.weight_gradient(x, dy, window)

    def own(x: Array, w: Array, dy: Array) -> tuple[Array, Array]:
        with jax.named_scope("input_gradient"):
            (dx,) = jax.linear_transpose(lambda x: _own(x, w, window), x)(dy)
        with jax.named_scope("weight_gradient"):
            (dw,) = jax.linear_transpose(lambda w: _own(x, w, window), w)(dy)
        return dx, dw

    return _on_cpu(chosen, own, x, w, dy)


def _own(x: Array, w: Array, window: Window) -> Array:
    return convolve(x, w, window.strides, window.pads)


def _on_cpu(chosen: Callable[..., Any], own: Callable[..., Any], *arrays: Array) -> Any:
    def in_32_bits(*arrays: Array) -> Any:
        wide = chosen(*(a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in arrays))
        return jax.tree.map(lambda a: a.astype(arrays[0].dtype), wide)

    return lax.platform_dependent(*arrays, cpu=in_32_bits, default=own)


_conv.defvjp(_forward, _backward)

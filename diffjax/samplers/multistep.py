"""What the multistep methods share: a memory of past predictions, and weights for them."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.typing import Images

# Past predictions, the newest first, and where each was made; infinity where there is none yet.
History = tuple[Float[Array, "K B H W C"], Float[Array, "K"]]
# Exact for polynomials up to degree 15, and to 1e-9 for them times exp over steps of e^6.
POINTS, SHARES = np.polynomial.legendre.leggauss(8)
FEW = 15  # steps: with fewer of them, Lu et al. (2022b, code) lower the order of the last ones
MANY = 2**30


def empty(x: Images, length: int) -> History:
    """A memory of `length` predictions of which none is made yet."""
    return jnp.zeros((length, *x.shape), x.dtype), jnp.full(length, jnp.inf)


def remember(history: History, made: Images, node: Float[Array, ""]) -> History:
    """The memory with one more prediction, the oldest forgotten."""
    predictions, nodes = history
    length = len(nodes)
    return (
        jnp.concatenate([made[None], predictions])[:length],
        jnp.concatenate([node[None], nodes])[:length],
    )


def countdown(steps: Int[Array, ""], lower_final: bool) -> Int[Array, ""]:
    """The order that a method may have at most: how many steps are left, in walks of few steps."""
    return jnp.where(lower_final & (steps < FEW), steps, MANY)


def lowered(nodes: Float[Array, "K"], order: Int[Array, ""]) -> Float[Array, "K"]:
    """The nodes before the present one that a method of this order looks at."""
    return jnp.where(jnp.arange(len(nodes)) < order - 1, nodes, jnp.inf)


def weights(
    nodes: Float[Array, "N"],
    start: Float[Array, ""],
    end: Float[Array, ""],
    density: Callable[[Float[Array, "..."]], Float[Array, "..."]] = jnp.ones_like,
) -> Float[Array, "N"]:
    """The integrals, from start to end, of the nodes' Lagrange polynomials times a density.

    A node at infinity is one less to go through; its own weight is 0.
    """
    known = jnp.isfinite(nodes)
    nodes = jnp.where(known, nodes, 0.0)
    at = (start + end) / 2 + (end - start) / 2 * jnp.asarray(POINTS, nodes.dtype)
    factors = known & ~jnp.eye(len(nodes), dtype=bool)
    gaps = jnp.where(factors & known[:, None], nodes[:, None] - nodes, 1.0)
    basis = jnp.where(factors[..., None], (at - nodes[:, None]) / gaps[..., None], 1.0).prod(1)
    shares = (end - start) / 2 * jnp.asarray(SHARES, nodes.dtype)
    return jnp.where(known, (basis * density(at) * shares).sum(1), 0.0)


def changes(
    weights: Float[Array, "K"], predictions: Float[Array, "K B H W C"], now: Images
) -> Images:
    """The weighted sum of how far the predictions lie from that of now."""
    return jnp.tensordot(weights, predictions - now, 1)

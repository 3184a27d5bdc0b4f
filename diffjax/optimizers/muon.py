"""Muon: a step that moves all directions of a matrix alike."""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.optimizers.base import Optimizer
from diffjax.typing import Params

__all__ = ["Muon"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Newton-Schulz (Jordan et al. 2024)
LIKE_ADAM = 0.2  # the root mean square of Adam's steps, over its rate (Liu et al. 2025, sec. 2.2)
NARROW = 16  # a layer of fewer outputs is the last one, whose outputs are pixels
TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024), for the kernels of dense layers and of
    convolutions; Adam for all other parameters and for the last layer.

    The kernel of a convolution is a matrix of all that a place takes times all that it gives. Steps
    are as large as Adam's, so that a learning rate serves both (Liu et al. 2025, eq. 4).
    beta: in [0, 1), how much of the momentum is kept each step. steps: of the Newton-Schulz
    iteration, 1 or more. Raises UserError for others.
    """

    beta: float = 0.95
    steps: int = 5

    def __post_init__(self) -> None:
        if not (0 <= self.beta < 1 and self.steps >= 1):
            raise UserError(
                f"muon(beta={self.beta}, steps={self.steps}): beta lies in [0, 1), and there is a "
                "step or more"
            )

    def transformation(self, rate: optax.Schedule) -> optax.GradientTransformation:
        of_matrices = optax.chain(
            optax.trace(self.beta, nesterov=True),
            optax.stateless(lambda momentum, _: self._orthogonal(momentum)),
            optax.scale_by_learning_rate(rate),
        )
        return optax.partition({"matrix": of_matrices, "other": optax.adam(rate)}, kinds)

    def _orthogonal(self, tree: Params) -> Params:
        """Each kernel's matrix made orthogonal; those of one shape are computed together."""
        leaves, form = jax.tree.flatten(tree)
        alike: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
        for i, leaf in enumerate(leaves):
            alike[math.prod(leaf.shape[:-1]), leaf.shape[-1]].append(i)
        for (taken, given), places in alike.items():
            stack = jnp.stack([leaves[i].reshape(taken, given) for i in places])
            made = LIKE_ADAM * max(taken, given) ** 0.5 * orthogonal(stack, self.steps)
            for i, matrix in zip(places, made, strict=True):
                leaves[i] = matrix.reshape(leaves[i].shape)
        return jax.tree.unflatten(form, leaves)


def orthogonal(x: Float[Array, "n p q"], steps: int) -> Float[Array, "n p q"]:
    """Matrices with their singular values brought near 1, by Newton-Schulz (Jordan et al. 2024).

    A step takes x to x (a + b g + c g²) with g = x^T x. All factors are functions of the first g
    and commute, so they are multiplied as small square matrices, and with x once in the end.
    """
    if x.shape[1] < x.shape[2]:
        return orthogonal(x.swapaxes(1, 2), steps).swapaxes(1, 2)
    a, b, c = COEFFICIENTS
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=(1, 2), keepdims=True), TINY)
    one = jnp.eye(x.shape[2], dtype=x.dtype)
    gram, product = x.swapaxes(1, 2) @ x, one
    for step in range(steps):
        factor = a * one + b * gram + c * gram @ gram
        product = product @ factor
        if step < steps - 1:
            gram = gram @ factor @ factor
    return x @ product


def kinds(params: Params) -> Any:
    """Of each parameter whether it is a "matrix" or something "other"."""

    def kind(path: tuple[Any, ...], leaf: Any) -> str:
        *taken, given = leaf.shape or (0,)
        kernel = getattr(path[-1], "key", None) == "kernel"
        return "matrix" if kernel and given >= NARROW and math.prod(taken) > 1 else "other"

    return jax.tree_util.tree_map_with_path(kind, params)

"""What a quantiser is: latents to codes and indices, indices to codes."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from diffjax.errors import UserError
from diffjax.typing import Keys

Vectors = Float[Array, "*n D"]  # the last axis is one vector, as of B h w latents
Indices = Int[Array, "*n"]


class Losses(NamedTuple):
    """The two terms of the loss of van den Oord et al. 2017, eq. 3, weighted: their sum is added.

    codebook: moves the codes to the latents. commitment: moves the latents to the codes.
    """

    codebook: Float[Array, ""]
    commitment: Float[Array, ""]


class Quantised(NamedTuple):
    """The codes of latents, the indices of the codes, and the losses.

    The gradient with respect to `codes` goes to the latents as if nothing had been quantised.
    """

    codes: Vectors
    indices: Indices
    losses: Losses


@runtime_checkable
class Quantiser(Protocol):
    """A Linen module called as quantiser(latents, train=..., keys=...) that returns Quantised.

    Latents are float32. In training a quantiser with state computes a new one
    (diffjax/models/stateful.py). `keys`, one per sample, are for quantisers that draw in training.
    """

    @property
    def size(self) -> int:
        """The number of codes."""

    @property
    def dim(self) -> int:
        """The number of channels of a code."""

    def __call__(
        self, latents: Vectors, *, train: bool = False, keys: Keys | None = None
    ) -> Quantised: ...

    def look_up(self, indices: Indices) -> Vectors:
        """The codes of indices from 0 to size - 1."""


def check_codes(name: str, num_codes: int, code_dim: int, beta: float) -> None:
    """Raises UserError for sizes that are not above 0, and for a beta below 0."""
    for option, value in (("num_codes", num_codes), ("code_dim", code_dim)):
        if value < 1:
            raise UserError(f"{name}({option}={value}): {option} must be above 0")
    if beta < 0:
        raise UserError(f"{name}(beta={beta}): beta must be 0 or more")


def nearest(latents: Vectors, codebook: Float[Array, "K D"]) -> Indices:
    """The index of the code at the least Euclidean distance, the first of equals (ibid., eq. 1)."""
    # |z|² is the same for all codes. At full precision: an accelerator's default product of
    # matrices has few digits, and would choose other codes.
    products = jnp.matmul(latents, codebook.T, precision=lax.Precision.HIGHEST)
    return jnp.argmin(jnp.sum(codebook**2, -1) - 2 * products, axis=-1)


def straight_through(latents: Vectors, codes: Vectors) -> Vectors:
    """The codes, with a gradient that goes to the latents unchanged (ibid., sec. 3.2)."""
    return latents + lax.stop_gradient(codes - latents)


def squared_error(a: Vectors, b: Vectors) -> Float[Array, ""]:
    """The mean over all numbers."""
    return jnp.mean((a - b) ** 2)

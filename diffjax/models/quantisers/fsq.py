"""Finite scalar quantisation: each channel rounded to few levels, no codebook (Mentzer 2023)."""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Float, Int

from diffjax.errors import UserError
from diffjax.models.quantisers.base import (
    Indices,
    Losses,
    Quantised,
    Vectors,
    straight_through,
)
from diffjax.typing import Keys

__all__ = ["FiniteScalarQuantiser"]

EPS = 1e-3  # keeps the bounded numbers off the edges, where rounding meets the next level


class FiniteScalarQuantiser(nn.Module):
    """Channel i rounded to levels[i] numbers in [-1, 1] (Mentzer et al. 2023, arXiv:2309.15505).

    Codes are the grid of all levels, prod(levels) of them, with one channel per level. There is no
    loss: rounding passes the gradient, and no code is trained. The paper advises 5 levels or more
    per channel. Raises UserError for fewer than 2.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2:
            raise UserError(f"fsq(levels={self.levels}): give each channel 2 levels or more")
        if math.prod(self.levels) >= 2**31:
            raise UserError(f"fsq(levels={self.levels}): choose fewer than 2**31 codes")
        super().__post_init__()

    @property
    def size(self) -> int:
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        return len(self.levels)

    def __call__(
        self, latents: Vectors, *, train: bool = False, keys: Keys | None = None
    ) -> Quantised:
        bounded = bound(latents, self.levels)
        rounded = jnp.round(bounded)
        codes = straight_through(bounded, rounded) / _half(self.levels)
        nothing = jnp.zeros((), jnp.float32)
        indices = indices_of(lax.stop_gradient(rounded) / _half(self.levels), self.levels)
        return Quantised(codes, indices, Losses(nothing, nothing))

    def look_up(self, indices: Indices) -> Vectors:
        return codes_of(indices, self.levels)


def bound(latents: Vectors, levels: tuple[int, ...]) -> Vectors:
    """Numbers that round to L integers: from -L // 2 to (L - 1) // 2 (ibid., app. A.1).

    An even L has no integer in its middle. Half a level is taken off the tanh, and its argument is
    shifted so that 0 still goes to about 0.
    """
    counts = np.asarray(levels)
    half = (counts - 1) * (1 - EPS) / 2
    offset = np.where(counts % 2, 0.0, 0.5)
    shift = jnp.float32(np.tan(offset / half))
    return jnp.tanh(latents + shift) * jnp.float32(half) - jnp.float32(offset)


def indices_of(codes: Vectors, levels: tuple[int, ...]) -> Indices:
    """The index of each code of the grid; the first channel changes fastest."""
    half = _half(levels)
    digits = jnp.round(codes * half + half).astype(jnp.int32)
    return jnp.sum(digits * _places(levels), axis=-1)


def codes_of(indices: Indices, levels: tuple[int, ...]) -> Vectors:
    """The code of each index from 0 to prod(levels) - 1, in [-1, 1]."""
    digits = indices[..., None] // _places(levels) % np.asarray(levels, np.int32)
    return (digits - _half(levels)) / _half(levels)


def _half(levels: tuple[int, ...]) -> Float[np.ndarray, "D"]:
    return np.asarray([count // 2 for count in levels], np.float32)


def _places(levels: tuple[int, ...]) -> Int[np.ndarray, "D"]:
    """What a step of each channel adds to the index."""
    return np.cumprod([1, *levels[:-1]]).astype(np.int32)

"""Randomness with a key a sample: what one draws depends on no other, nor on where it is drawn."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffjax.typing import Keys


def sample_keys(key: Key[Array, ""], first: Int[Array, ""] | int, count: int) -> Keys:
    """Keys of samples first ... first + count - 1, the same however they are cut into batches."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


def fold_in(keys: Keys, data: Int[Array, ""] | int) -> Keys:
    """The same number folded into each sample's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Unit noise of `shape` a sample."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)

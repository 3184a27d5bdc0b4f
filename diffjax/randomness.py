"""Randomness with a key a sample: what one draws depends on no other, nor on where it is drawn."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from diffjax.errors import UserError
from diffjax.typing import Keys


def sample_keys(key: Key[Array, ""], first: Int[Array, ""] | int, count: int) -> Keys:
    """Keys of samples first ... first + count - 1, the same however they are cut into batches.

    Raises UserError for a key of a generator whose numbers depend on the batch, such as rbg.
    """
    impl = str(jax.random.key_impl(key))
    if not impl.startswith("threefry"):
        raise UserError(
            f"random numbers of {impl} depend on the batch size: make the key with "
            "jax.random.key(seed, impl='threefry2x32')"
        )
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


def fold_in(keys: Keys, data: Int[Array, ""] | int) -> Keys:
    """The same number folded into each sample's key."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def normal(keys: Keys, shape: tuple[int, ...]) -> Float[Array, "B ..."]:
    """Unit noise of `shape` a sample."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)

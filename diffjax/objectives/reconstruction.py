"""Squared error of images made out under noise, with no time and no schedule."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.randomness import normal
from diffjax.typing import Apply, Images, Keys, Params

KEPT = 0.5  # of the image; the rest is noise


def veil(keys: Keys, images: Images) -> Images:
    """Half the image and half unit noise, each by its own key."""
    return KEPT * images + (1 - KEPT) * normal(keys, images.shape[1:])


def reconstruction_loss(
    apply: Apply,
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]:
    """The mean squared error of what `apply` makes of veiled images. The batch holds `image`."""

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        images = batch["image"]
        found = apply({"params": params}, veil(keys, images), train=True)
        return jnp.mean((found - images) ** 2), {}

    return loss_fn

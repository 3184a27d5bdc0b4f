"""Guidance by how similar an image's embedding is to a target's."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.typing import Images, Params

SHORTEST = 1e-12  # a shorter embedding is divided by this: an embedding of zeros has no direction


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Similarity:
    """The cosine of an image's embedding with its target, a vector of unit length.

    In place of log p(text | image) it is the guidance by a CLIP of Crowson et al. 2022, VQGAN-CLIP,
    and of Nichol et al. 2022, GLIDE, sec. 2.3. GLIDE's CLIP was trained on noised images; this
    one is asked about the predicted x0. `embed` is hashed: equal ones share what is compiled.
    """

    embed: Callable[[Params, Images], Float[Array, "B D"]]

    def __call__(
        self, params: Params, images: Images, targets: Float[Array, "B D"]
    ) -> Float[Array, "B"]:
        found = self.embed(params, images)
        # The maximum is below the root: the root of 0 has no slope.
        length = jnp.sqrt(jnp.maximum(jnp.sum(found * found, axis=-1), SHORTEST**2))
        return jnp.sum(found * targets, axis=-1) / length

"""Guidance of latents by a network that knows images: it is asked about what they decode to."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax.guidance.classifier import ClassLogProb
from diffjax.guidance.similarity import Similarity
from diffjax.typing import Images, Params


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Decoded:
    """A judge of images, asked about images in [-1, 1] that latents decode to.

    params is {"judge": the judge's, "stage": the first stage's}. The gradient goes back through
    `decode`, (the first stage's params, x0) -> images. It is hashed: equal ones share what is
    compiled.
    """

    judge: ClassLogProb | Similarity
    decode: Callable[[Params, Images], Images]

    def __call__(
        self, params: Params, x0: Images, targets: Int[Array, "B"] | Float[Array, "B D"]
    ) -> Float[Array, "B"]:
        images = jnp.clip(self.decode(params["stage"], x0), -1, 1)
        return self.judge(params["judge"], images, targets)

"""A class as one-hot numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.conditions.base import Mask
from diffjax.conditions.classes import Classes
from diffjax.conditions.vector import hide_elements
from diffjax.typing import Keys

__all__ = ["OneHot"]

Numbers = Float[Array, "B K"]


@dataclasses.dataclass(frozen=True)
class OneHot(Classes):
    """A 1 at the class and zeros elsewhere; zeros alone stand for no class.

    mask: `sample` hides a sample's class, `element` each of its numbers by itself, as the course
    "Generative AI with Diffusion Models" does. For one-hot numbers both hide a class equally often.
    """

    mask: Mask = "sample"

    def example(self, batch_size: int) -> Numbers:
        return jnp.zeros((batch_size, self.num_classes))

    def of_batch(self, batch: Mapping[str, Array]) -> Numbers:
        return jax.nn.one_hot(batch["label"], self.num_classes)

    def asked(self, values: Sequence[Any] | np.ndarray | None, num: int) -> Numbers:
        return self.of_batch({"label": jnp.asarray(self.labels(values, num))})

    def null(self, cond: Numbers) -> Numbers:
        return jnp.zeros_like(cond)

    def hide(self, keys: Keys, cond: Numbers) -> Numbers:
        if self.mask == "sample":
            return super().hide(keys, cond)
        return hide_elements(keys, cond, self.drop)

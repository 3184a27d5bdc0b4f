"""Numbers of any meaning, such as an image's embedding."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.conditions.base import DROPPED, Condition, Mask, in_turn
from diffjax.errors import UserError
from diffjax.randomness import fold_in
from diffjax.typing import Keys

__all__ = ["Vector"]

Vectors = Float[Array, "B D"]


@dataclasses.dataclass(frozen=True)
class Vector(Condition):
    """`dim` numbers per sample, from a batch's `vector`; zeros stand for no condition.

    mask: `sample` hides a sample's whole vector, `element` each number by itself. With `element` a
    whole vector is hidden with probability drop^dim, so that guidance from zeros goes away from a
    condition that training hardly showed. Raises UserError for fewer than one number.
    """

    dim: int
    mask: Mask = "sample"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim < 1:
            raise UserError(f"vector(dim={self.dim}): there is at least one number")

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return ("vector",)

    def example(self, batch_size: int) -> Vectors:
        return jnp.zeros((batch_size, self.dim))

    def of_batch(self, batch: Mapping[str, Array]) -> Vectors:
        return batch["vector"]

    def asked(self, values: Sequence[Any] | np.ndarray | None, num: int) -> Vectors:
        if values is None:
            raise UserError(f"this run is conditioned on {self.dim} numbers per image: give them")
        rows = in_turn(values, num).astype(np.float32)
        if rows.shape[1:] != (self.dim,):
            raise UserError(f"vectors of shape {rows.shape[1:]}: this run takes ({self.dim},)")
        return jnp.asarray(rows)

    def null(self, cond: Vectors) -> Vectors:
        return jnp.zeros_like(cond)

    def hide(self, keys: Keys, cond: Vectors) -> Vectors:
        if self.mask == "sample":
            return super().hide(keys, cond)
        return hide_elements(keys, cond, self.drop)


def hide_elements(keys: Keys, numbers: Vectors, drop: float) -> Vectors:
    """Each number of each sample set to 0 with probability `drop`, by the sample's own key."""
    width = numbers.shape[1:]
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - drop, width))
    return numbers * kept(fold_in(keys, DROPPED))

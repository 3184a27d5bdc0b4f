"""A class by its number."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffjax.conditions.base import Labels
from diffjax.conditions.classes import Classes

__all__ = ["Label"]


@dataclasses.dataclass(frozen=True)
class Label(Classes):
    """int32 labels from 0 to num_classes - 1, for a network with an embedding per class.

    The null label is num_classes, so a network that is taught it has one embedding more.
    """

    @property
    def embeddings(self) -> int:
        """The rows that a network's table needs."""
        return self.num_classes + bool(self.drop)

    def example(self, batch_size: int) -> Labels:
        return jnp.zeros(batch_size, jnp.int32)

    def of_batch(self, batch: Mapping[str, Array]) -> Labels:
        return batch["label"]

    def asked(self, values: Sequence[Any] | np.ndarray | None, num: int) -> Labels:
        return jnp.asarray(self.labels(values, num))

    def null(self, cond: Labels) -> Labels:
        return jnp.full_like(cond, self.num_classes)

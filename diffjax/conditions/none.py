"""No condition."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array

from diffjax.conditions.base import Condition
from diffjax.errors import UserError
from diffjax.typing import Cond

__all__ = ["Unconditional"]


@dataclasses.dataclass(frozen=True)
class Unconditional(Condition):
    """The network sees the noisy image and the time alone. Its condition is None.

    Raises UserError for a drop above 0.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop:
            raise UserError(
                f"cond_drop={self.drop} hides conditions, and this network takes none: choose 0, "
                "or give the model num_class_embeds",
                option="cond_drop",
            )

    def example(self, batch_size: int) -> Cond:
        return None

    def of_batch(self, batch: Mapping[str, Array]) -> Cond:
        return None

    def asked(self, values: Sequence[Any] | np.ndarray | None, num: int) -> Cond:
        if values is not None:
            raise UserError("this run takes no condition: leave the labels out", option="labels")
        return None

    def null(self, cond: Cond) -> Cond:
        return None

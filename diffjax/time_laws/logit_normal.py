"""More of the times in the middle, where a flow is hardest to tell."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.schedules.base import Schedule
from diffjax.time_laws.base import TimeLaw
from diffjax.typing import Keys

__all__ = ["LogitNormal"]


@dataclasses.dataclass(frozen=True)
class LogitNormal(TimeLaw):
    """log(t / (1 - t)) of this mean and standard deviation (Esser et al. 2024, sec. 3.1).

    A mean above 0 prefers more noise. Raises UserError unless std > 0.
    """

    mean: float = 0.0
    std: float = 1.0

    fair: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise UserError(f"logit_normal(std={self.std}): choose std above 0")

    def draw(self, keys: Keys, schedule: Schedule) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        logit = self.mean + self.std * normal(keys, ())
        # So far out that float32 would make 0 of it, no law of use draws.
        t = jax.nn.sigmoid(jnp.maximum(logit, -40.0))
        return t, jnp.ones_like(t)

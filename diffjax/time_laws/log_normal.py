"""EDM's law: noise levels, not times."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.schedules.base import Schedule
from diffjax.time_laws.base import TimeLaw
from diffjax.typing import Keys

__all__ = ["LogNormal"]


@dataclasses.dataclass(frozen=True)
class LogNormal(TimeLaw):
    """log(sigma / alpha) of this mean and standard deviation (Karras et al. 2022, table 1).

    Of any schedule; what lies beyond its ends is drawn there. Raises UserError unless std > 0.
    """

    mean: float = -1.2
    std: float = 1.2

    fair: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise UserError(f"log_normal(std={self.std}): choose std above 0")

    def draw(self, keys: Keys, schedule: Schedule) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        t = schedule.time_at(jnp.exp(self.mean + self.std * normal(keys, ())))
        return t, jnp.ones_like(t)

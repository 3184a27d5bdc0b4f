"""Any time as likely as any other."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.schedules.base import Schedule
from diffjax.time_laws.base import TimeLaw, uniform
from diffjax.typing import Keys

__all__ = ["Uniform"]


@dataclasses.dataclass(frozen=True)
class Uniform(TimeLaw):
    """Uniform on all of (0, 1]."""

    def draw(self, keys: Keys, schedule: Schedule) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        t = uniform(keys)
        return t, jnp.ones_like(t)

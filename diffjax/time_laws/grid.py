"""DDPM's times."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.schedules.base import Schedule
from diffjax.time_laws.base import TimeLaw
from diffjax.typing import Keys

__all__ = ["Grid"]


@dataclasses.dataclass(frozen=True)
class Grid(TimeLaw):
    """Uniform on DDPM's grid 1/T, 2/T ... 1 (Ho et al. 2020, algorithm 1)."""

    on_grid: ClassVar[bool] = True

    def draw(self, keys: Keys, schedule: Schedule) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        index = jax.vmap(lambda key: jax.random.randint(key, (), 1, schedule.steps + 1))(keys)
        t = index / schedule.steps
        return t, jnp.ones_like(t)

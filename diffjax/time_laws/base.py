"""What a law of times is."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.schedules.base import Schedule
from diffjax.typing import Keys


@dataclasses.dataclass(frozen=True)
class TimeLaw(abc.ABC):
    """How a training step draws its times.

    fair: importance * f(t) has the mean that f has over all of (0, 1], or over its grid; where not,
    the law is part of what is minimised. on_grid: only DDPM's T times are drawn.
    """

    fair: ClassVar[bool] = True
    on_grid: ClassVar[bool] = False

    @abc.abstractmethod
    def draw(self, keys: Keys, schedule: Schedule) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """A time in (0, 1] a sample, and its importance, by which its loss is multiplied."""

    def draw_steps(
        self, keys: Keys, schedule: Schedule
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """As `draw`, each time moved up to DDPM's grid; where the law is fair it stays so."""
        t, importance = self.draw(keys, schedule)
        # What lies on the grid stays, however it is rounded.
        return jnp.ceil(t * schedule.steps * (1 - 1e-6)) / schedule.steps, importance


def uniform(keys: Keys) -> Float[Array, "B"]:
    """A number in (0, 1] a sample."""
    return 1 - jax.vmap(jax.random.uniform)(keys)

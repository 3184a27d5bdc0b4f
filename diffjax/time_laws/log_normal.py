"""EDM's law: noise levels, not times."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.schedules.base import Schedule
from diffjax.time_laws.base import TimeLaw
from diffjax.typing import Keys

__all__ = ["LogNormal"]

HALVINGS = 24  # as many as a float32 has digits


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
        t = _time_at(schedule, -2 * (self.mean + self.std * normal(keys, ())))
        return t, jnp.ones_like(t)


def _time_at(schedule: Schedule, log_snr: Float[Array, "B"]) -> Float[Array, "B"]:
    """Schedule.time_at inside a compiled step: the time in (0, 1], by bisection."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        early = schedule.log_snr(middle) > log_snr
        return jnp.where(early, middle, low), jnp.where(early, high, middle)

    ends = jnp.zeros_like(log_snr), jnp.ones_like(log_snr)
    return lax.stop_gradient(lax.fori_loop(0, HALVINGS, halve, ends)[1])

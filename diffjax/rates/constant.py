"""A rate that stays, and cools down at the end."""

import dataclasses
import math

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from diffjax.errors import UserError
from diffjax.rates.base import RateLaw

__all__ = ["Constant"]


@dataclasses.dataclass(frozen=True)
class Constant(RateLaw):
    """The peak throughout, and at the end as 1 - sqrt to 0 (Hägele et al. 2024, eq. 1 and 2).

    cooldown: the share of all steps, in [0, 1], in which it falls. A run can be made longer up to
    where that begins: it is then the longer run. Raises UserError for another share.
    """

    cooldown: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.cooldown <= 1:
            raise UserError(f"constant(cooldown={self.cooldown}): the share lies in [0, 1]")

    def schedule(self, peak: float, steps: int, warmup_steps: int) -> optax.Schedule:
        start = self.steady_until(steps)

        def rate(step: ArrayLike) -> Array:
            climbed = jnp.minimum((step + 1) / (warmup_steps + 1), 1)
            cooled = jnp.clip((step - start) / max(steps - start, 1), 0, 1)
            return peak * climbed * (1 - jnp.sqrt(cooled))

        return rate

    def steady_until(self, steps: int) -> int:
        return steps - math.ceil(self.cooldown * steps)

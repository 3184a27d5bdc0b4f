"""More of the times that make the variational bound noisy."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.randomness import fold_in
from diffjax.schedules.base import Schedule
from diffjax.time_laws.base import TimeLaw, uniform
from diffjax.typing import Keys

__all__ = ["Importance"]


@dataclasses.dataclass(frozen=True)
class Importance(TimeLaw):
    """In proportion to the bound's terms for unit Gaussian data; a share `even` is drawn uniformly.

    The density is even within steps of 1/T, the importance 1 / density: at most 1 / even.
    Nichol & Dhariwal's importance sampling (2021, sec. 3.3) follows the losses that it has seen;
    this keeps no history, so that what a step draws depends on its key alone.
    Raises UserError unless 0 < even <= 1.
    """

    even: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.even <= 1:
            raise UserError(f"importance(even={self.even}): choose 0 < even <= 1; 1 is uniform")

    def shares(self, schedule: Schedule) -> Float[Array, "T"]:
        """How likely a time is to lie in each of the T steps."""
        steps = schedule.steps
        if steps == 1:
            return jnp.ones(1)
        # The bound's are d log_snr times the error in eps, of such data sigmoid(log_snr): that is
        # d softplus(log_snr). An error always the same would spend half the draws on mere noise.
        terms = -jnp.diff(jax.nn.softplus(schedule.log_snr(jnp.arange(1, steps + 1) / steps)))
        # The first step, which begins in infinity, counts as much as the second.
        terms = lax.stop_gradient(jnp.concatenate([terms[:1], terms]))
        return (1 - self.even) * terms / terms.sum() + self.even / steps

    def draw(self, keys: Keys, schedule: Schedule) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        shares = self.shares(schedule)
        upto = jnp.cumsum(shares)
        step = jnp.searchsorted(upto, upto[-1] * uniform(fold_in(keys, 0)))
        step = jnp.minimum(step, schedule.steps - 1)
        # Even within a step, so that its end may stand for all of it and nothing is biased.
        t = (step + uniform(fold_in(keys, 1))) / schedule.steps
        return t, 1 / (schedule.steps * shares[step])

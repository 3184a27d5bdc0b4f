"""The diffusion exponential integrator sampler."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int

from diffjax.errors import UserError
from diffjax.samplers import multistep
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing
from diffjax.spacings.karras import Karras
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["DEIS"]

Memory = tuple[multistep.History, Int[Array, ""]]  # the last eps; the most that the order may be


@dataclasses.dataclass(frozen=True)
class DEIS(Sampler):
    """Zhang & Chen 2023 in its log-rho form: eps a polynomial in log(sigma / alpha).

    The step to t = 0, infinitely long there, takes x0 as it is. With lower_final the last steps of
    fewer than 15 have the orders 2 and 1, as in diffusers. Raises UserError unless order is 1 to 3.
    """

    order: int = 3
    lower_final: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 3:
            raise UserError(f"deis(order={self.order}): choose an order from 1 (ddim) to 3")

    @property
    def spacing(self) -> Spacing:
        return Karras()

    def init(self, x: Images, steps: Int[Array, ""]) -> Memory:
        return multistep.empty(x, self.order - 1), multistep.countdown(steps, self.lower_final)

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: Memory,
        t: Times,
        s: Times,
    ) -> tuple[Images, Memory]:
        x0, eps, _ = denoise(x, t)
        alpha, sigma = schedule.alpha_sigma(s)
        now = -schedule.log_snr(t) / 2
        to = jnp.where(s > 0, -schedule.log_snr(s) / 2, now)
        history, left = memory
        nodes = multistep.lowered(history[1], left)
        weights = multistep.weights(jnp.append(now, nodes), now, to, jnp.exp)[1:]
        x = alpha * x0 + sigma * eps + alpha * multistep.changes(weights, history[0], eps)
        return x, (multistep.remember(history, eps, now), left - 1)

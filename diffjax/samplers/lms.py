"""Adams and Bashforth's linear multistep method."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int

from diffjax.errors import UserError
from diffjax.samplers import multistep
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["LMS"]


@dataclasses.dataclass(frozen=True)
class LMS(Sampler):
    """k-diffusion's linear multistep: a polynomial in sigma / alpha through `order` eps.

    Zhang & Chen (2023) know it as rho-AB-DEIS. Raises UserError unless order is 1 to 4.
    """

    order: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 4:
            raise UserError(f"lms(order={self.order}): choose an order from 1 (euler) to 4")

    def init(self, x: Images, steps: Int[Array, ""]) -> multistep.History:
        return multistep.empty(x, self.order - 1)

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: multistep.History,
        t: Times,
        s: Times,
    ) -> tuple[Images, multistep.History]:
        x0, eps, _ = denoise(x, t)
        alpha, sigma = schedule.alpha_sigma(s)
        now, to = schedule.sigma_ve(t), schedule.sigma_ve(s)
        before, nodes = memory
        weights = multistep.weights(jnp.append(now, nodes), now, to)[1:]
        x = alpha * x0 + sigma * eps + alpha * multistep.changes(weights, before, eps)
        return x, multistep.remember(memory, eps, now)

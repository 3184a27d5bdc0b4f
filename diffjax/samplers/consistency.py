"""Sampling from a consistency model."""

import dataclasses

import jax.numpy as jnp

from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.randomness import normal
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["Consistency"]


@dataclasses.dataclass(frozen=True)
class Consistency(Sampler):
    """An image in one step; in more, noise on it and off again (Song et al. 2023, algorithm 1).

    From consistency models alone: from others it draws images that are too smooth.
    """

    @property
    def order(self) -> int:
        return 0

    def check(self, process: Process) -> None:
        if not process.consistent:
            raise UserError(
                "sampler consistency draws from consistency models alone: distil the model into "
                "one, or choose ddim",
                option="sampler",
            )

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: tuple[()],
        t: Times,
        s: Times,
    ) -> tuple[Images, tuple[()]]:
        alpha_s, sigma_s = schedule.alpha_sigma(s)
        # x0 has the noise of the first time already.
        first = schedule.sigma_ve(jnp.asarray(1 / schedule.steps))
        std = jnp.sqrt(jnp.maximum(sigma_s**2 - (alpha_s * first) ** 2, 0.0))
        return alpha_s * denoise(x, t).x0 + std * normal(keys, x.shape[1:]), memory

"""Heun's second-order method on the probability flow."""

import dataclasses

import jax.numpy as jnp

from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["Heun"]


@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
    """Karras et al. 2022, algorithm 1: a step with the mean of the slopes at both its ends.

    Two evaluations a step; the last, to t = 0, is Euler's, since there is no noise to see there.
    """

    @property
    def order(self) -> int:
        return 2

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
        (alpha, sigma), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        x0, slope = denoise(x, t)
        there = alpha_s * x0 + sigma_s * slope
        # At t = 0 the network would be asked for noise that is not there.
        at_end = denoise(there, jnp.where(s > 0, s, t)).eps
        mean = jnp.where(s > 0, (slope + at_end) / 2, slope)
        return alpha_s * (x / alpha + (sigma_s / alpha_s - sigma / alpha) * mean), memory

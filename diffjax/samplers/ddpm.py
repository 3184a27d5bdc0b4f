"""Ancestral sampling."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from diffjax.process import expand, posterior
from diffjax.randomness import normal
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["DDPM"]


@dataclasses.dataclass(frozen=True)
class DDPM(Sampler):
    """Ho et al. 2020, algorithm 2, between any two times.

    variance: `small` is the posterior's, beta_tilde (eq. 7); `large` is that of q(x_t | x_s), beta,
    right where the data are unit Gaussian. No noise is added on the way to t = 0.
    """

    variance: Literal["small", "large"] = "small"

    @property
    def order(self) -> int:
        return 0

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
        mean, variance = posterior(schedule, denoise(x, t).x0, x, t, s)
        if self.variance == "large":
            _, sigma_t = schedule.alpha_sigma(t)
            gap = -jnp.expm1(schedule.log_snr(t) - schedule.log_snr(s))
            variance = expand(jnp.where(s > 0, sigma_t**2 * gap, 0.0), x)
        return mean + jnp.sqrt(variance) * normal(keys, x.shape[1:]), memory

"""Denoising diffusion implicit models."""

import dataclasses

import jax.numpy as jnp

from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["DDIM"]


@dataclasses.dataclass(frozen=True)
class DDIM(Sampler):
    """Song et al. 2021, eq. 12. eta=0 is deterministic, eta=1 is DDPM's ancestral step.

    With eta=0 s may be above t too: then it walks from an image to its noise, as in the paper's
    section 4.3. Raises UserError unless eta is in [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"ddim(eta={self.eta}): choose eta from 0 (deterministic) to 1 (DDPM)")

    @property
    def order(self) -> int:
        return 0 if self.eta else 1

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
        x0, eps, _ = denoise(x, t)
        alpha_s, sigma_s = schedule.alpha_sigma(s)
        if not self.eta:
            return alpha_s * x0 + sigma_s * eps, memory
        gap = -jnp.expm1(schedule.log_snr(t) - schedule.log_snr(s))
        # sigma_s² - std², written so that it cannot fall below zero.
        std = self.eta * sigma_s * jnp.sqrt(gap)
        x = alpha_s * x0 + sigma_s * jnp.sqrt(1 - self.eta**2 * gap) * eps
        return x + std * normal(keys, x.shape[1:]), memory

"""Heun's method."""

import dataclasses

from jax import lax

from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing
from diffjax.spacings.karras import Karras
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["Heun"]


@dataclasses.dataclass(frozen=True)
class Heun(Sampler):
    """Heun's method on dx/dsigma = eps, x and sigma over alpha (Karras et al. 2022, algorithm 1).

    The step to t = 0 is Euler's. A step's error grows with its sigma, which on most schedules
    leaps near t = 1: evenly spaced times spoil the images.
    """

    @property
    def order(self) -> int:
        return 2

    @property
    def spacing(self) -> Spacing:
        return Karras()

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

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
        alpha, sigma = schedule.alpha_sigma(s)
        euler = alpha * x0 + sigma * eps

        def corrected() -> Images:
            step = sigma - alpha * schedule.sigma_ve(t)
            return euler + step * (denoise(euler, s).eps - eps) / 2

        return lax.cond(s > 0, corrected, lambda: euler), memory

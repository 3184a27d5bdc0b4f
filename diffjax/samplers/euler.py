"""Euler's method."""

import dataclasses

from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["Euler"]


@dataclasses.dataclass(frozen=True)
class Euler(Sampler):
    """Euler's method on dx/dsigma = eps, with x and sigma over alpha (Karras et al. 2022, eq. 4).

    What is left of the algebra is DDIM without noise.
    """

    @property
    def order(self) -> int:
        return 1

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
        return alpha * x0 + sigma * eps, memory

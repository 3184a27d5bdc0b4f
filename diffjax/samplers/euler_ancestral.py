"""Euler's method down to less noise than is wanted, and fresh noise up to it."""

import dataclasses

from diffjax.errors import UserError
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["EulerAncestral"]


@dataclasses.dataclass(frozen=True)
class EulerAncestral(Sampler):
    """k-diffusion's Euler ancestral sampler: in x and sigma over alpha it is DDIM with noise.

    Its sigma_up² = eta² sigma_s² (1 - sigma_s² / sigma_t²) is DDIM's variance (Song et al. 2021,
    eq. 16) over alpha_s². Raises UserError unless eta is in (0, 1].
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.eta <= 1:
            raise UserError(
                f"euler_ancestral(eta={self.eta}): choose eta above 0, up to 1; 0 is euler"
            )

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
        return DDIM(self.eta).step(schedule, denoise, keys, x, memory, t, s)

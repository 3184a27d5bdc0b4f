"""Karras et al.'s spacing: small steps where there is little noise."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import MOST_NOISE, Spacing, at_noise

__all__ = ["Karras"]


@dataclasses.dataclass(frozen=True)
class Karras(Spacing):
    """(sigma / alpha)^(1/rho) in even steps (Karras et al. 2022, eq. 5).

    From the schedule's largest, or sigma_max where that is less, to that after its first training
    step. Raises UserError unless sigma_max > 0 and rho > 0.
    """

    sigma_max: float = MOST_NOISE
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (self.sigma_max > 0 and self.rho > 0):
            raise UserError(
                f"karras(sigma_max={self.sigma_max}, rho={self.rho}): choose both above 0"
            )

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        low, high = schedule.noise_range()
        high = min(high, self.sigma_max)
        roots = np.linspace(high ** (1 / self.rho), low ** (1 / self.rho), steps)
        return at_noise(schedule, roots**self.rho)

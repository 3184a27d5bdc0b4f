"""Even steps in log-SNR."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import MOST_NOISE, Spacing, at_noise

__all__ = ["Exponential"]


@dataclasses.dataclass(frozen=True)
class Exponential(Spacing):
    """sigma / alpha in equal ratios (Lu et al. 2022, section 4.1), between `karras`'s ends.

    Raises UserError unless sigma_max > 0.
    """

    sigma_max: float = MOST_NOISE

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise UserError(f"exponential(sigma_max={self.sigma_max}): choose it above 0")

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        low, high = schedule.noise_range()
        high = min(high, self.sigma_max)
        return at_noise(schedule, np.geomspace(high, low, steps))

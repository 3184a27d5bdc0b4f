"""Even steps between the first and the last training step."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing

__all__ = ["Linspace"]


@dataclasses.dataclass(frozen=True)
class Linspace(Spacing):
    """DDPM's indices 0 to T - 1, both ends included (Nichol & Dhariwal 2021, section 4)."""

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        if steps == 1:
            return np.ones(1)
        return (np.linspace(schedule.steps - 1, 0, steps) + 1) / schedule.steps

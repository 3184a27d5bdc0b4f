"""Every so-manieth training step, from the first."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing

__all__ = ["Leading"]


@dataclasses.dataclass(frozen=True)
class Leading(Spacing):
    """DDPM's indices 0, T // steps, 2 (T // steps) ... (Song et al. 2021, appendix D.2).

    The last is short of T - 1: sampling begins with less noise than it is given.
    """

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, "{steps}"]:
        return (np.arange(steps)[::-1] * (schedule.steps // steps) + 1) / schedule.steps

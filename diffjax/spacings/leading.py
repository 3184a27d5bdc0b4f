"""Every so-manieth training step, from the first."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing

__all__ = ["Leading"]


@dataclasses.dataclass(frozen=True)
class Leading(Spacing):
    """DDPM's indices 0, T // steps, 2 (T // steps) ... (Song et al. 2021, appendix D.2).

    The last is short of T - 1: sampling begins with less noise than it is given. `times` raises
    UserError for more than T steps.
    """

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        if steps > schedule.steps:
            raise UserError(
                f"steps={steps}: spacing leading takes some of the {schedule.steps} training "
                "steps: take no more than that, or spacing trailing"
            )
        return (np.arange(steps)[::-1] * (schedule.steps // steps) + 1) / schedule.steps

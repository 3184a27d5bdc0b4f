"""Which times diffusers' schedulers visit."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Discrete, Schedule
from diffjax.spacings.base import Spacing

Kind = Literal["linspace", "leading", "trailing"]
RHO = 7.0


@dataclasses.dataclass(frozen=True)
class TrainingSteps(Spacing):
    """Training steps in one of the three ways of Lin et al. (2024, table 2).

    offset: what is added to the indices of `leading`. highest: the number of training steps that
    are used, from the first. left_out: one step more is spaced out, and the last is left out.
    whole: times are rounded to training steps. last: the time at which the last step
    ends. `times` raises UserError for an index that is no training step, and where two are one.
    """

    kind: Kind
    offset: int = 0
    highest: int = 1000
    left_out: bool = False
    whole: bool = True
    last: float = 0.0

    def end(self, schedule: Schedule) -> float:
        return self.last

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, "{steps}"]:
        index = self._index(schedule.steps, steps)
        if index[0] > schedule.steps - 1:
            raise UserError(
                f"steps={steps}: spacing leading with steps_offset={self.offset} begins at index "
                f"{index[0]:.0f}, and the last is {schedule.steps - 1}: take fewer steps"
            )
        return (index + 1) / schedule.steps

    def _index(self, most: int, steps: int) -> Float64[np.ndarray, "{steps}"]:
        """DDPM's indices, falling, computed in diffusers' order of roundings."""
        points = steps + self.left_out
        if self.kind == "trailing":
            falling = np.arange(self.highest, 0, -most / steps)[:steps]
            return (falling.round() if self.whole else falling) - 1
        if self.kind == "leading":
            rising = np.arange(points) * (self.highest // points) + float(self.offset)
        else:
            rising = np.linspace(0, self.highest - 1, points)
            rising = rising.round() if self.whole else rising
        return rising[::-1][:steps]


@dataclasses.dataclass(frozen=True)
class NoiseLevels(Spacing):
    """sigma / alpha between two ends: `karras` (2022, eq. 5) with rho 7, or in equal ratios.

    within: the ends are noise levels of the times of this spacing; without one they are of the
    first and of the last training step. low and high, where given, are the ends. last: the time at
    which the last step ends. `times` raises UserError for ends beyond the schedule's.
    """

    law: Literal["karras", "exponential"]
    within: TrainingSteps | None = None
    low: float | None = None
    high: float | None = None
    last: float = 0.0

    def end(self, schedule: Schedule) -> float:
        return self.last

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, "{steps}"]:
        assert isinstance(schedule, Discrete)
        levels = -schedule.log_snr_table / 2
        high, low = self._ends(schedule, levels, steps)
        if self.law == "karras":
            at = RHO * np.log(np.linspace(np.exp(high / RHO), np.exp(low / RHO), steps))
        else:
            at = np.linspace(high, low, steps)
        return (np.interp(at, levels, np.arange(schedule.steps)) + 1) / schedule.steps

    def _ends(
        self, schedule: Schedule, levels: Float64[np.ndarray, "T"], steps: int
    ) -> Float64[np.ndarray, "2"]:
        """log(sigma / alpha) at the first and at the last time."""
        ends = levels[[-1, 0]]
        if self.within is not None:
            index = self.within.starts(schedule, steps)[[0, -1]] * schedule.steps - 1
            ends = np.interp(index, np.arange(len(levels)), levels)
        for place, level, name in ((0, self.high, "sigma_max"), (1, self.low, "sigma_min")):
            if level is None:
                continue
            if not levels[0] - 1e-6 <= np.log(level) <= levels[-1] + 1e-6:
                low, high = np.exp(levels[[0, -1]])
                raise UserError(
                    f"{name}={level} lies beyond the schedule's noise, {low:.4g} to {high:.4g}"
                )
            ends[place] = np.log(level)
        return ends

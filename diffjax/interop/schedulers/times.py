"""Which times diffusers' schedulers visit."""

import dataclasses
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Discrete, Schedule
from diffjax.schedules.flow import Flow
from diffjax.spacings.base import Spacing

Kind = Literal["linspace", "leading", "trailing"]
RHO = 7.0
NEAR = 2.0**-22  # four times what float32 can tell beside 1


@dataclasses.dataclass(frozen=True)
class TrainingSteps(Spacing):
    """Training steps in one of the three ways of Lin et al. (2024, table 2).

    offset: what is added to the indices of `leading`. highest: the number of training steps that
    are used, from the first. left_out: one step more is spaced out, and the last is left out.
    rounded: whether times are rounded to training steps; `later` ones are not yet, but lie where
    float32 is rounded as float64 would be. last: the time at which the last step ends. `times`
    raises UserError for an index that is no training step, and where two are one.
    """

    kind: Kind
    offset: int = 0
    highest: int = 1000
    left_out: bool = False
    rounded: Literal["now", "later", "never"] = "now"
    last: float = 0.0

    def end(self, starts: Float64[np.ndarray, "T"]) -> float:
        return self.last

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        index = self._index(schedule.steps, steps)
        if index[0] > schedule.steps - 1:
            raise UserError(
                f"steps={steps}: spacing leading with steps_offset={self.offset} begins at index "
                f"{index[0]:.0f}, and the last is {schedule.steps - 1}: take fewer steps"
            )
        return (index + 1) / schedule.steps

    def _index(self, most: int, steps: int) -> Float64[np.ndarray, " {steps}"]:
        """DDPM's indices, falling, in the order of diffusers' roundings."""
        points = steps + self.left_out
        if self.kind == "trailing":
            return self._rounded(np.arange(self.highest, 0, -most / steps)[:steps], most) - 1
        if self.kind == "leading":
            rising = np.arange(points) * (self.highest // points) + float(self.offset)
        else:
            rising = self._rounded(np.linspace(0, self.highest - 1, points), most)
        return rising[::-1][:steps]

    def _rounded(self, steps: Float64[np.ndarray, "T"], most: int) -> Float64[np.ndarray, "T"]:
        if self.rounded == "never":
            return steps
        whole = steps.round()
        if self.rounded == "now":
            return whole
        # From the middle between two by a little more than what float32 can tell.
        middle = np.abs(np.abs(steps - whole) - 0.5) < NEAR * most
        return steps + middle * np.sign(whole - steps) * NEAR * most


@dataclasses.dataclass(frozen=True)
class NoiseLevels(Spacing):
    """sigma / alpha between two ends: `karras` (2022, eq. 5) with rho 7, or in equal ratios.

    within: the ends are noise levels of the times of this spacing; without one they are of the
    first and of the last training step. low and high, where given, are the ends. last: the time at
    which the last step ends; without one it ends where it begins. `times` raises UserError for ends
    beyond the schedule's.
    """

    law: Literal["karras", "exponential"]
    within: TrainingSteps | None = None
    low: float | None = None
    high: float | None = None
    last: float | None = 0.0

    def end(self, starts: Float64[np.ndarray, "T"]) -> float:
        # A step of no length at all would be left out, and not be counted as the last.
        return starts[-1] * (1 - NEAR) if self.last is None else self.last

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
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
        low, high = np.exp(levels[[0, -1]])
        for place, level, name in ((0, self.high, "sigma_max"), (1, self.low, "sigma_min")):
            if level is None:
                continue
            if not low * (1 - 1e-6) <= level <= high * (1 + 1e-6):
                raise UserError(
                    f"{name}={level} lies beyond the schedule's noise, {low:.4g} to {high:.4g}"
                )
            ends[place] = np.log(level)
        return ends


@dataclasses.dataclass(frozen=True)
class FlowLevels(Spacing):
    """sigma of an unshifted flow in even steps from 1, shifted (Esser et al. 2024, eq. 23).

    The lowest is that of the first training step, which is shifted twice.
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        Flow(shift=self.shift)  # which raises UserError for a shift that is not above 0

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        return self._shifted(np.linspace(1.0, self._shifted(1 / schedule.steps), steps))

    def _shifted(self, sigma: Any) -> Any:
        return self.shift * sigma / (1 + (self.shift - 1) * sigma)

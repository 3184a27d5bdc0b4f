"""A hand-made table of noise levels, stretched to any number of steps."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing, at_noise

__all__ = ["AlignYourSteps"]


@dataclasses.dataclass(frozen=True)
class AlignYourSteps(Spacing):
    """sigma / alpha from a table, its logarithm interpolated to other numbers of steps.

    The default is Sabour et al.'s for Stable Diffusion 1.5 and 10 steps (2024); one for other
    images is found by trying. Levels beyond the schedule's are cut to them. Raises UserError unless
    sigmas are two or more, fall, and lie above 0.
    """

    sigmas: tuple[float, ...] = (
        14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152,
    )  # fmt: skip

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2 or self.sigmas[-1] <= 0 or (np.diff(self.sigmas) >= 0).any():
            raise UserError(
                f"align_your_steps(sigmas={self.sigmas}): give two or more that fall, above 0"
            )

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        # Of levels that are cut to one, one is kept: no two steps begin at the same time.
        table = np.log(np.unique(np.clip(self.sigmas, *schedule.noise_range()))[::-1])
        at = np.linspace(0, len(table) - 1, steps)
        return at_noise(schedule, np.exp(np.interp(at, np.arange(len(table)), table)))

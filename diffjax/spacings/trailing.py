"""Even steps from t = 1."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing

__all__ = ["Trailing"]


@dataclasses.dataclass(frozen=True)
class Trailing(Spacing):
    """Evenly spaced from 1 (Lin et al. 2024, section 3.3): the one that begins at pure noise."""

    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        return np.arange(steps, 0, -1) / steps

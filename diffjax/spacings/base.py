"""What a spacing is."""

import abc
import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule

# EDM's largest noise (Karras et al. 2022, table 1): of what lies above, an image keeps no trace.
MOST_NOISE = 80.0


@dataclasses.dataclass(frozen=True)
class Spacing(abc.ABC):
    """The times of a number of steps."""

    @abc.abstractmethod
    def starts(self, schedule: Schedule, steps: int) -> Float64[np.ndarray, " {steps}"]:
        """The time, in (0, 1] and falling, at which each step begins."""

    def end(self, starts: Float64[np.ndarray, "T"]) -> float:
        """The time at which the last step ends: 0, unless overridden."""
        return 0.0

    def times(self, schedule: Schedule, steps: int) -> Float32[np.ndarray, "T"]:
        """The times a sampler visits: `steps` that fall from at most 1, and the end.

        The last step may begin where it ends: then it does nothing. Raises UserError for
        steps < 1, and where two steps begin at one time.
        """
        if steps < 1:
            raise UserError(f"steps={steps}: take at least one sampling step")
        starts = self.starts(schedule, steps)
        times = np.append(starts, self.end(starts)).astype(np.float32)
        if not ((np.diff(times[:-1]) < 0).all() and times[-1] <= times[-2]):
            name = type(self).__module__.rpartition(".")[2]
            raise UserError(
                f"steps={steps}: spacing {name} has fewer different times on this schedule: "
                "take fewer steps, or spacing trailing"
            )
        return times


def at_noise(schedule: Schedule, sigma_ve: Float64[np.ndarray, "T"]) -> Float64[np.ndarray, "T"]:
    """The times at which sigma / alpha is `sigma_ve`."""
    return np.asarray(schedule.time_at(jnp.asarray(sigma_ve, jnp.float32)), np.float64)

"""What a law of the learning rate is."""

import abc
import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class RateLaw(abc.ABC):
    """The learning rate of each step."""

    @abc.abstractmethod
    def schedule(self, peak: float, steps: int, warmup_steps: int) -> optax.Schedule:
        """The rate of step 0 to steps - 1, which climbs in a line to `peak` over warmup_steps."""

    def steady_until(self, steps: int) -> int:
        """The step from which on the rate depends on how many steps there are."""
        return 0

"""What an edit is: a sampler around another, with a start and a list of times of its own."""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from diffjax.process import Process, expand
from diffjax.randomness import normal
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing
from diffjax.typing import Denoiser, Images, Keys, Times


@dataclasses.dataclass(frozen=True, eq=False)
class Edit(Sampler, abc.ABC):
    """Takes `sampler`'s steps, unless it overrides them. Its arrays lead with the batch's B.

    Each edit is a pytree of its arrays, so that one compilation serves every image.
    """

    sampler: Sampler

    @abc.abstractmethod
    def start(self, schedule: Schedule, keys: Keys, t: Times) -> Images:
        """x at t, the first of the times."""

    def times(self, times: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "S"]:
        """The times to visit, from a spacing's; some may rise."""
        return times

    @property
    def order(self) -> int:
        return self.sampler.order

    @property
    def spacing(self) -> Spacing:
        return self.sampler.spacing

    def nfe(self, steps: int) -> int:
        return self.sampler.nfe(steps)

    def check(self, process: Process) -> None:
        self.sampler.check(process)

    def init(self, x: Images, steps: Int[Array, ""]) -> Any:
        return self.sampler.init(x, steps)

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: Any,
        t: Times,
        s: Times,
    ) -> tuple[Images, Any]:
        return self.sampler.step(schedule, denoise, keys, x, memory, t, s)


def diffuse(schedule: Schedule, keys: Keys, x: Images, t: Times, s: Times) -> Images:
    """Draws from q(x_s | x_t), 0 <= t <= s <= 1 (Kingma et al. 2021, appendix A.1).

    From t = 0, where x is clean, s may be 0 as well: that gives x itself.
    """
    (alpha, _), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
    # sigma_s² - (alpha_s / alpha_t)² sigma_t² = sigma_s² (1 - SNR(s) / SNR(t)): at t = 0 the whole,
    # where the difference of two infinities would say nothing.
    gap = jnp.where(t > 0, -jnp.expm1(schedule.log_snr(s) - schedule.log_snr(t)), 1.0)
    noise = normal(keys, x.shape[1:])
    return expand(alpha_s / alpha, x) * x + expand(sigma_s * jnp.sqrt(gap), x) * noise

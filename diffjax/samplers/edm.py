"""Karras et al.'s stochastic sampler."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.samplers.base import Sampler
from diffjax.samplers.heun import Heun
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import MOST_NOISE, Spacing
from diffjax.spacings.karras import Karras
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["EDMSampler"]


@dataclasses.dataclass(frozen=True)
class EDMSampler(Sampler):
    """Heun's step from a noise raised by churn (Karras et al. 2022, algorithm 2).

    Where s_min <= sigma / alpha <= s_max, the noise grows by gamma = min(s_churn / N, sqrt(2) - 1)
    of itself, never above the schedule's. N is what the step tells of it: the number of `karras`
    steps as long as this one. On that spacing this is the paper's gamma; elsewhere a longer step
    churns more. The step to t = 0 draws no noise. s_noise is the standard deviation of the noise;
    the paper's best for ImageNet are edm(s_churn=40, s_min=0.05, s_max=50, s_noise=1.003), at 256
    steps. Without churn it is `heun`.

    Raises UserError unless s_churn >= 0, 0 <= s_min <= s_max and s_noise > 0.
    """

    s_churn: float = 10.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not (self.s_churn >= 0 and 0 <= self.s_min <= self.s_max and self.s_noise > 0):
            raise UserError(
                f"edm(s_churn={self.s_churn}, s_min={self.s_min}, s_max={self.s_max}, "
                f"s_noise={self.s_noise}): choose s_churn >= 0, 0 <= s_min <= s_max, s_noise > 0"
            )

    @property
    def order(self) -> int:
        return 0 if self.s_churn else 2

    @property
    def spacing(self) -> Spacing:
        return Karras()

    def nfe(self, steps: int) -> int:
        return Heun().nfe(steps)

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: tuple[()],
        t: Times,
        s: Times,
    ) -> tuple[Images, tuple[()]]:
        if self.s_churn:
            x, t = self._churn(schedule, keys, x, t, s)
        return Heun().step(schedule, denoise, keys, x, memory, t, s)

    def _churn(
        self, schedule: Schedule, keys: Keys, x: Images, t: Times, s: Times
    ) -> tuple[Images, Times]:
        """x with more noise, and the time that has as much."""
        now = schedule.log_snr(t)
        raised = _time_at(schedule, now - 2 * jnp.log1p(self._gamma(schedule, t, s)), t)
        # Not above 0 by a rounding, of which the root below would be none.
        fall = jnp.minimum(schedule.log_snr(raised) - now, 0.0)
        (_, sigma), (_, sigma_raised) = schedule.alpha_sigma(t), schedule.alpha_sigma(raised)
        # alpha over alpha, without dividing by one that may be 0 at t = 1.
        kept = sigma_raised / sigma * jnp.exp(fall / 2)
        std = self.s_noise * sigma_raised * jnp.sqrt(-jnp.expm1(fall))
        return kept * x + std * normal(keys, x.shape[1:]), raised

    def _gamma(self, schedule: Schedule, t: Times, s: Times) -> Float[Array, ""]:
        """By which share of itself the noise is raised before the step from t to s."""
        rho = Karras().rho
        low, high = schedule.sigma_ve(jnp.asarray([1 / schedule.steps, 1.0]))
        high = jnp.minimum(high, MOST_NOISE)
        now, to = schedule.sigma_ve(t), schedule.sigma_ve(s)
        ends = jnp.clip(jnp.stack([now, to]), low, high) ** (1 / rho)
        # N levels make N - 1 steps.
        share = (ends[0] - ends[1]) / (high ** (1 / rho) - low ** (1 / rho))
        gamma = jnp.minimum(self.s_churn * share / (1 + share), jnp.sqrt(2.0) - 1)
        return jnp.where((now >= self.s_min) & (now <= self.s_max) & (s > 0), gamma, 0.0)


def _time_at(schedule: Schedule, log_snr: Float[Array, ""], t: Times) -> Times:
    """The time from t to 1 that has this log-SNR, or the last before 1 where none has.

    Three grids, each as fine as the bracket that the last one left, in place of a loop.
    """
    low, high = t, jnp.ones_like(t)
    for _ in range(3):
        grid = low + (high - low) * jnp.linspace(0, 1, 257)
        after = jnp.clip(jnp.sum(schedule.log_snr(grid) > log_snr), 1, 256)
        low, high = grid[after - 1], grid[after]
    return low

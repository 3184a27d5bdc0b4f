"""DPM-Solver++'s second-order multistep method on the reverse SDE."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.samplers import multistep
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing
from diffjax.spacings.karras import Karras
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["DPMpp2MSDE"]

# The last x0 and its half log-SNR; the most that the order may be.
Memory = tuple[Images, Float[Array, ""], Int[Array, ""]]


@dataclasses.dataclass(frozen=True)
class DPMpp2MSDE(Sampler):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b), with eta the share of its noise as in k-diffusion.

    solver: `midpoint` takes the x0 in the middle of the step for the whole of it, `heun` a straight
    line through the last two. With lower_final the last of fewer than 15 steps has order 1. Raises
    UserError for eta below 0.
    """

    eta: float = 1.0
    solver: Literal["midpoint", "heun"] = "midpoint"
    lower_final: bool = False

    def __post_init__(self) -> None:
        if self.eta < 0:
            raise UserError(f"dpmpp_2m_sde(eta={self.eta}): choose eta from 0 (no noise) up")

    @property
    def order(self) -> int:
        return 0 if self.eta else 2

    @property
    def spacing(self) -> Spacing:
        return Karras()

    def init(self, x: Images, steps: Int[Array, ""]) -> Memory:
        # Infinitely far away, so that the first step makes nothing of it.
        left = multistep.countdown(steps, self.lower_final)
        return jnp.zeros_like(x), jnp.asarray(-jnp.inf), left

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: Memory,
        t: Times,
        s: Times,
    ) -> tuple[Images, Memory]:
        (_, sigma), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        now, to = schedule.log_snr(t) / 2, schedule.log_snr(s) / 2
        before, then, left = memory
        h = to - now
        x0 = denoise(x, t).x0
        memory = x0, now, left - 1
        # The last step, of infinite length, takes x0 as it is.
        second = (s > 0) & (left > 1)
        ahead = jnp.where(second, self._ahead(jnp.where(second, h, 1.0)) / (now - then), 0.0)
        x0_between = x0 + ahead * (x0 - before)
        new = -alpha_s * jnp.expm1(-(1 + self.eta) * h) * x0_between
        if not self.eta:
            return sigma_s / sigma * x + new, memory
        kept = sigma_s / sigma * jnp.exp(-self.eta * h)
        std = sigma_s * jnp.sqrt(-jnp.expm1(-2 * self.eta * h))
        return kept * x + new + std * normal(keys, x.shape[1:]), memory

    def _ahead(self, h: Float[Array, ""]) -> Float[Array, ""]:
        """How far on in a step of h, 0 < h < inf, the x0 lies that stands for the whole of it."""
        if self.solver == "midpoint":
            return h / 2
        scaled = (1 + self.eta) * h
        return h * (1 / -jnp.expm1(-scaled) - 1 / scaled)

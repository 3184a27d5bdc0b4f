"""DPM-Solver++'s third-order multistep method on the reverse SDE."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.samplers import multistep
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["DPMpp3MSDE"]

# The last x0, how fast it changed before that, the half log-SNR of the last two steps; the most
# that the order may be.
Memory = tuple[Images, Images, Float[Array, ""], Float[Array, ""], Int[Array, ""]]


@dataclasses.dataclass(frozen=True)
class DPMpp3MSDE(Sampler):
    """k-diffusion's DPM-Solver++(3M) SDE; eta is the share of its noise.

    As there and in Lu et al.'s code, the second derivative counts half of what Taylor's formula
    gives it: without noise the order is 2, with a smaller error than `dpmpp_2m`. Steps that look at
    two x0s alone are `dpmpp_2m_sde`'s with `solver`. With lower_final the last of fewer than 15
    steps have the orders 2 and 1. Raises UserError for eta below 0.
    """

    eta: float = 1.0
    solver: Literal["midpoint", "heun"] = "heun"
    lower_final: bool = False

    def __post_init__(self) -> None:
        if self.eta < 0:
            raise UserError(f"dpmpp_3m_sde(eta={self.eta}): choose eta from 0 (no noise) up")

    @property
    def order(self) -> int:
        return 0 if self.eta else 2

    def init(self, x: Images, steps: Int[Array, ""]) -> Memory:
        # Infinitely far away, so that the first steps make nothing of them.
        never = jnp.asarray(-jnp.inf)
        left = multistep.countdown(steps, self.lower_final)
        return jnp.zeros_like(x), jnp.zeros_like(x), never, never, left

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
        before, slope_before, then, earlier, left = memory
        h = to - now
        x0 = denoise(x, t).x0
        slope = (x0 - before) / (now - then)
        third = jnp.isfinite(earlier) & (left > 2)
        bend = jnp.where(third, (slope - slope_before) / (now - earlier), 0.0)
        # At the node itself: the slope over the last step is that of its middle.
        slope_now = slope + bend * jnp.where(third, now - then, 0.0)
        # The last step, of infinite length, takes x0 as it is.
        finite = jnp.where(s > 0, h, 1.0)
        scaled = (1 + self.eta) * finite
        phi_2 = jnp.expm1(-scaled) / scaled + 1
        phi_3 = phi_2 / scaled - 0.5
        if self.solver == "midpoint":
            phi_2 = jnp.where(third, phi_2, -jnp.expm1(-scaled) / 2)
        higher = phi_2 * finite * slope_now - phi_3 * finite**2 * bend
        second = (s > 0) & (left > 1)
        new = -jnp.expm1(-(1 + self.eta) * h) * x0 + jnp.where(second, higher, 0.0)
        x = sigma_s / sigma * jnp.exp(-self.eta * finite) * x + alpha_s * new
        if self.eta:
            std = sigma_s * jnp.sqrt(-jnp.expm1(-2 * self.eta * h))
            x = x + std * normal(keys, x.shape[1:])
        return x, (x0, slope, now, then, left - 1)

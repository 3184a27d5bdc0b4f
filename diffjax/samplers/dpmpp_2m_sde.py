"""DPM-Solver++'s second-order multistep method on the reverse SDE."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing
from diffjax.spacings.karras import Karras
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["DPMpp2MSDE"]

Memory = tuple[Images, Float[Array, ""]]


@dataclasses.dataclass(frozen=True)
class DPMpp2MSDE(Sampler):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b), with eta the share of its noise as in k-diffusion.

    The last x0 and its half log-SNR are remembered. Raises UserError for eta below 0.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if self.eta < 0:
            raise UserError(f"dpmpp_2m_sde(eta={self.eta}): choose eta from 0 (no noise) up")

    @property
    def order(self) -> int:
        return 0 if self.eta else 2

    @property
    def spacing(self) -> Spacing:
        return Karras()

    def init(self, x: Images) -> Memory:
        # Infinitely far away, so that the first step makes nothing of it.
        return jnp.zeros_like(x), jnp.asarray(-jnp.inf)

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
        before, then = memory
        h = to - now
        x0 = denoise(x, t).x0
        # The last step, of infinite length, takes x0 as it is.
        slope = jnp.where(s > 0, h / (2 * (now - then)), 0.0)
        x0_between = x0 + slope * (x0 - before)
        new = -alpha_s * jnp.expm1(-(1 + self.eta) * h) * x0_between
        if not self.eta:
            return sigma_s / sigma * x + new, (x0, now)
        kept = sigma_s / sigma * jnp.exp(-self.eta * h)
        std = sigma_s * jnp.sqrt(-jnp.expm1(-2 * self.eta * h))
        return kept * x + new + std * normal(keys, x.shape[1:]), (x0, now)

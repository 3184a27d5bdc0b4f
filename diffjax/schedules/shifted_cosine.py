"""Simple diffusion's schedule: a cosine that larger images shift to more noise."""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule

__all__ = ["ShiftedCosine"]


@dataclasses.dataclass(frozen=True)
class ShiftedCosine(Schedule):
    """log_snr = -2 log tan(angle) + 2 log(reference / size) (Hoogeboom et al. 2023, section 3.1).

    The angle runs straight in t, between those at which the unshifted log-SNR is log_snr_max and
    log_snr_min; beyond the first is t = 0 alone, which is clean. `size` is the images' height, and
    `reference` that of images for which no shift is wanted. Raises UserError unless both are at
    least 1, log_snr_min < log_snr_max, and the shifted log-SNR stays above -30.
    """

    size: int = 64
    reference: int = 64
    log_snr_min: float = -15.0
    log_snr_max: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1 or self.reference < 1:
            raise UserError(
                f"shifted_cosine(size={self.size}, reference={self.reference}): "
                "choose heights in pixels, 1 or more"
            )
        if not -30 - self.shift < self.log_snr_min < self.log_snr_max:
            raise UserError(
                f"shifted_cosine(log_snr_min={self.log_snr_min}, log_snr_max={self.log_snr_max}): "
                f"choose {-30 - self.shift:.1f} < log_snr_min < log_snr_max"
            )

    @property
    def shift(self) -> float:
        """What is added to the log-SNR: below 0 for images larger than the reference."""
        return 2 * math.log(self.reference / self.size)

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        first, last = (
            math.atan(math.exp(-end / 2)) for end in (self.log_snr_max, self.log_snr_min)
        )
        angle = first + t * (last - first)
        # What is left to a right angle, not by subtraction: near t = 1 that would cancel.
        rest = math.atan(math.exp(self.log_snr_min / 2)) + (1 - t) * (last - first)
        log_snr = 2 * (jnp.log(jnp.sin(rest)) - jnp.log(jnp.sin(angle))) + self.shift
        return jnp.where(t > 0, log_snr, jnp.inf)

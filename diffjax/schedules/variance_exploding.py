"""Song et al.'s variance-exploding schedule."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule

__all__ = ["VarianceExploding"]


@dataclasses.dataclass(frozen=True)
class VarianceExploding(Schedule):
    """x = x0 + sigma eps, log sigma on a straight line in t (Song et al. 2021b, eq. 31).

    Below sigma_min is t = 0 alone, which is clean. Raises UserError unless
    0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    variance_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma_min < self.sigma_max:
            raise UserError(
                f"variance_exploding(sigma_min={self.sigma_min}, sigma_max={self.sigma_max}): "
                "choose 0 < sigma_min < sigma_max"
            )

    def alpha_sigma(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        return jnp.ones_like(t), jnp.exp(-self.log_snr(t) / 2)

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return jnp.where(t > 0, -2 * (low + t * (high - low)), jnp.inf)

    def noise_range(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

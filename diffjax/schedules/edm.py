"""Karras et al.'s variance-exploding schedule."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule

__all__ = ["EDM"]


@dataclasses.dataclass(frozen=True)
class EDM(Schedule):
    """x = x0 + sigma eps, sigma^(1/rho) on a straight line in t (Karras et al. 2022, eq. 5).

    Below sigma_min is t = 0 alone, which is clean. Raises UserError unless
    0 < sigma_min < sigma_max and rho > 0.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    variance_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.sigma_min < self.sigma_max and self.rho > 0):
            raise UserError(
                f"edm(sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, rho={self.rho}): "
                "choose 0 < sigma_min < sigma_max and 0 < rho"
            )

    def root(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """sigma^(1/rho) for t in (0, 1]."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return low + t * (high - low)

    def alpha_sigma(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        return jnp.ones_like(t), jnp.where(t > 0, self.root(t) ** self.rho, 0.0)

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.where(t > 0, -2 * self.rho * jnp.log(self.root(t)), jnp.inf)

    def noise_range(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

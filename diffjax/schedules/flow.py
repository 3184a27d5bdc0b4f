"""Rectified flow: a straight line from the image to the noise."""

import dataclasses
import math
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.schedules.base import NO_SIGNAL, Schedule

__all__ = ["Flow"]


@dataclasses.dataclass(frozen=True)
class Flow(Schedule):
    """x = (1 - u) x0 + u eps, u = shift t / (1 + (shift - 1) t) (Liu et al. 2023, eq. 1).

    The shift is Esser et al.'s (2024, eq. 23). One above 1 spends more of the time on more noise,
    as larger images want. Raises UserError unless shift > 0.
    """

    shift: float = 1.0

    variance_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shift > 0:
            raise UserError(f"flow(shift={self.shift}): choose shift above 0; 1 shifts nothing")

    @property
    def zero_terminal(self) -> bool:
        return True

    def alpha_sigma(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        whole = 1 + (self.shift - 1) * t
        return (1 - t) / whole, self.shift * t / whole

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        # Of alpha = 0 no logarithm is taken: its gradient would be no number.
        left = jnp.log(jnp.where(t < 1, 1 - t, 1.0))
        log_snr = 2 * (left - jnp.log(t) - math.log(self.shift))
        return jnp.where(t < 1, jnp.maximum(log_snr, NO_SIGNAL), NO_SIGNAL)

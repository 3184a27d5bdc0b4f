"""Jabri et al.'s schedule: alpha_bar follows a piece of a sigmoid."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule

__all__ = ["Sigmoid"]


@dataclasses.dataclass(frozen=True)
class Sigmoid(Schedule):
    """alpha_bar falls as sigmoid((start + t (end - start)) / tau) rises, stretched from 1 to 0.

    Jabri et al. 2023; Chen 2023, algorithm 1, from which also the least alpha_bar, 1e-9. diffusers'
    `sigmoid` is another: there betas follow one. Raises UserError unless start < end and tau > 0.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    least: ClassVar[float] = math.log(1e-9) - math.log1p(-1e-9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.start < self.end and self.tau > 0):
            raise UserError(
                f"sigmoid(start={self.start}, end={self.end}, tau={self.tau}): "
                "choose start < end and 0 < tau"
            )

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        first, last = self.start / self.tau, self.end / self.tau
        width = last - first
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which cancels nothing.
        ends = jax.nn.log_sigmoid(last) - jax.nn.log_sigmoid(-first)
        rest = jnp.where(t < 1, 1 - t, 1.0)
        gone, left = -jnp.expm1(-width * t), -jnp.expm1(-width * rest)
        log_snr = ends - (first + width * t) + jnp.log(left) - jnp.log(gone)
        return jnp.where(t < 1, jnp.maximum(log_snr, self.least), self.least)

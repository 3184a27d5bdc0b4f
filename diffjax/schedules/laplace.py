"""Hang et al.'s schedule: log-SNR has a Laplace distribution."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.schedules.base import NO_SIGNAL, Schedule

__all__ = ["Laplace"]


@dataclasses.dataclass(frozen=True)
class Laplace(Schedule):
    """log_snr = mu - b sgn(1/2 - t) log(1 - 2 |t - 1/2|) (Hang et al. 2024).

    At t = 1 alone there is no signal. diffusers' `laplace` is another: it takes alpha for
    alpha_bar. Raises UserError unless b > 0 and mu is within 30 of 0.
    """

    mu: float = 0.0
    b: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.b > 0 and abs(self.mu) < 30):
            raise UserError(
                f"laplace(mu={self.mu}, b={self.b}): choose mu between -30 and 30, and 0 < b"
            )

    @property
    def zero_terminal(self) -> bool:
        return True

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        # Of the two halves' logarithms one is 0.
        rest = jnp.where(t < 1, jnp.minimum(1 - t, 0.5), 0.5)
        log_snr = self.mu + self.b * (jnp.log(2 * rest) - jnp.log(2 * jnp.minimum(t, 0.5)))
        return jnp.where(t < 1, jnp.maximum(log_snr, NO_SIGNAL), NO_SIGNAL)

    def noise_range(self) -> tuple[float, float]:
        # Nearer to 1 there are too few float32 times for as many noise levels.
        return super().noise_range()[0], float(self.sigma_ve(jnp.asarray(1 - 1e-5)))

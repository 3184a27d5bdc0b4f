"""What a schedule is, and the schedules that are tables of betas."""

import abc
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from diffjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
    """A variance-preserving noise schedule, given by its log-SNR.

    `steps` is the number of training steps T: DDPM's index i is t = (i + 1) / T.
    """

    steps: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps={self.steps}: a schedule has at least one step")

    @abc.abstractmethod
    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """log(alpha² / sigma²) at t in [0, 1], falling from +inf (Kingma et al. 2021, eq. 2)."""

    def alpha_sigma(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """The marginal's coefficients at t: x = alpha x0 + sigma eps, alpha² + sigma² = 1."""
        log_snr = self.log_snr(t)
        return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


@dataclasses.dataclass(frozen=True)
class Discrete(Schedule):
    """A schedule given by T betas; between its steps the log-SNR is interpolated linearly."""

    @abc.abstractmethod
    def betas(self) -> Float64[np.ndarray, "T"]:
        """The variance that each step adds, in (0, 1)."""

    @functools.cached_property
    def log_snr_table(self) -> Float64[np.ndarray, "T"]:
        """log-SNR after each step, in float64: a float32 product loses 1.7e-4 of 1 - alpha_bar."""
        log_alpha_bar = np.cumsum(np.log1p(-self.betas()))
        return log_alpha_bar - np.log(-np.expm1(log_alpha_bar))

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        table = jnp.asarray(self.log_snr_table, jnp.float32)
        position = t * self.steps
        index = jnp.clip(position.astype(jnp.int32), 1, max(self.steps - 1, 1))
        low, high = table[index - 1], table[jnp.minimum(index, self.steps - 1)]
        between = low + (position - index) * (high - low)
        # Before the first step 1 - alpha_bar grows from 0 to its first value in a straight line.
        first = 1 / (1 + np.exp(self.log_snr_table[0]))
        variance = position * first
        return jnp.where(position < 1, jnp.log1p(-variance) - jnp.log(variance), between)

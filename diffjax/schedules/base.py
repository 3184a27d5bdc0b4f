"""What a schedule is, and the schedules that are tables of betas."""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float64, Key

from diffjax.errors import UserError
from diffjax.typing import Params

# log-SNR of what is called no signal: alpha is 2e-9, which float32 cannot tell from 0 beside 1.
NO_SIGNAL = -40.0


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
    """A noise schedule, given by its log-SNR; variance-preserving unless it says otherwise.

    `steps` is the number of training steps T: DDPM's index i is t = (i + 1) / T.
    """

    steps: int = 1000

    variance_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps={self.steps}: a schedule has at least one step")

    @property
    def zero_terminal(self) -> bool:
        """Whether nothing of the image is left at t = 1, so that its x0 cannot be told from eps."""
        return False

    @abc.abstractmethod
    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """log(alpha² / sigma²) at t in [0, 1], falling from +inf (Kingma et al. 2021, eq. 2).

        Finite for t > 0: where there is no signal at all it ends at NO_SIGNAL.
        """

    def alpha_sigma(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """The marginal's coefficients at t: x = alpha x0 + sigma eps, here alpha² + sigma² = 1."""
        log_snr = self.log_snr(t)
        return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))

    def sigma_ve(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """sigma / alpha, the noise of x over alpha: EDM's sigma (Karras et al. 2022)."""
        return jnp.exp(-self.log_snr(t) / 2)

    def noise_range(self) -> tuple[float, float]:
        """sigma / alpha after the first training step, and at t = 1."""
        ends = self.sigma_ve(jnp.asarray([1 / self.steps, 1.0]))
        return float(ends[0]), float(ends[1])

    def time_at(self, sigma_ve: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """The time in (0, 1] at which sigma / alpha is `sigma_ve`, or the nearer end.

        By bisection to 2e-9, or to what the type can tell; no gradient goes through it.
        """

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            below = self.sigma_ve(middle) < sigma_ve
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        ends = jnp.zeros_like(sigma_ve), jnp.ones_like(sigma_ve)
        return lax.stop_gradient(lax.fori_loop(0, 29, halve, ends)[1])

    def apart(self, params: Params) -> tuple[Params, Params]:
        """What is learnt, twice: a gradient goes to its ends alone, and to all but its ends."""
        return lax.stop_gradient(params), params

    def init(self, key: Key[Array, ""]) -> Params | None:
        """What is learnt, before it is: it goes under "schedule" into what `bind` reads.

        None, where nothing is learnt.
        """
        return None

    def bind(self, params: Params) -> "Schedule":
        """The schedule that learnt `params` describe; itself, where nothing is learnt."""
        return self


@dataclasses.dataclass(frozen=True)
class Discrete(Schedule):
    """A schedule given by T betas; between its steps the log-SNR is interpolated linearly.

    With zero_terminal_snr the root of alpha_bar is shifted and stretched so that it ends at 0 and
    begins where it did (Lin et al. 2024, algorithm 1). Raises UserError for that and one step.
    """

    zero_terminal_snr: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zero_terminal_snr and self.steps < 2:
            raise UserError(
                f"zero_terminal_snr=True, steps={self.steps}: "
                "the first step is kept and the last leaves no signal: choose 2 steps or more"
            )

    @property
    def zero_terminal(self) -> bool:
        return self.zero_terminal_snr

    @abc.abstractmethod
    def betas(self) -> Float64[np.ndarray, "T"]:
        """The variance that each step adds, in (0, 1), before any rescaling."""

    @functools.cached_property
    def log_snr_table(self) -> Float64[np.ndarray, "T"]:
        """log-SNR after each step, in float64: a float32 product loses 1.7e-4 of 1 - alpha_bar."""
        log_alpha_bar = np.cumsum(np.log1p(-self.betas()))
        if self.zero_terminal_snr:
            root = np.exp(log_alpha_bar / 2)
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
            with np.errstate(divide="ignore"):
                log_alpha_bar = 2 * np.log(root)
        return np.maximum(log_alpha_bar - np.log(-np.expm1(log_alpha_bar)), NO_SIGNAL)

    def log_snr(self, t: Float[Array, "*n"]) -> Float[Array, "*n"]:
        table = jnp.asarray(self.log_snr_table, jnp.float32)
        position = t * self.steps
        index = jnp.clip(position.astype(jnp.int32), 1, max(self.steps - 1, 1))
        low, high = table[index - 1], table[jnp.minimum(index, self.steps - 1)]
        between = self.between(low, high, position - index)
        # Before the first step 1 - alpha_bar grows from 0 to its first value in a straight line.
        first = 1 / (1 + np.exp(self.log_snr_table[0]))
        variance = jnp.minimum(position, 1) * first
        return jnp.where(position < 1, jnp.log1p(-variance) - jnp.log(variance), between)

    def between(
        self, low: Float[Array, "*n"], high: Float[Array, "*n"], share: Float[Array, "*n"]
    ) -> Float[Array, "*n"]:
        """log-SNR at a share, in [0, 1], of the way between those of two steps."""
        return low + share * (high - low)

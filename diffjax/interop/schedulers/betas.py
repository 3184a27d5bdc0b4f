"""Noise schedules given by a table, as diffusers' schedulers keep them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Discrete

# What zero terminal SNR leaves of alpha_bar where a scheduler divides by alpha.
LEAST_ALPHA_BAR = 2.0**-24


@dataclasses.dataclass(frozen=True)
class Betas(Discrete):
    """One beta per training step. With `straight` sigma / alpha runs straight between two steps.

    Without it log-SNR does, as in the schedules with a formula. Raises UserError unless there is
    one beta for each step, in (0, 1).
    """

    table: tuple[float, ...] = ()
    straight: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.table) != self.steps:
            raise UserError(
                f"{len(self.table)} betas for {self.steps} training steps: give as many"
            )
        for index, beta in enumerate(self.table):
            if not 0 < beta < 1:
                raise UserError(f"beta {index} is {beta}: choose betas above 0 and below 1")

    def betas(self) -> Float64[np.ndarray, "T"]:
        return np.asarray(self.table, np.float64)

    def between(
        self, low: Float[Array, "*n"], high: Float[Array, "*n"], share: Float[Array, "*n"]
    ) -> Float[Array, "*n"]:
        if not self.straight:
            return super().between(low, high, share)
        # sigma / alpha over that of the step before is 1 + share (exp((low - high) / 2) - 1).
        return low - 2 * jnp.log1p(share * jnp.expm1((low - high) / 2))


def tabled(schedule: Discrete, straight: bool = False) -> Betas:
    """The schedule as a table, with a little signal at its end where it has none.

    Raises UserError where there is less than that before the end.
    """
    alpha_bar = 1 / (1 + np.exp(-schedule.log_snr_table))
    if schedule.zero_terminal:
        if alpha_bar[-2] <= LEAST_ALPHA_BAR:
            raise UserError(
                "rescale_betas_zero_snr=true is not supported with these betas: at the last step "
                f"alpha_bar would rise from {alpha_bar[-2]:.3g} to {LEAST_ALPHA_BAR:.3g}"
            )
        alpha_bar[-1] = LEAST_ALPHA_BAR
    before = np.append(1.0, alpha_bar[:-1])
    betas = (before - alpha_bar) / before
    return Betas(schedule.steps, table=tuple(betas.tolist()), straight=straight)

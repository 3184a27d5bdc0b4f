"""The unified predictor-corrector."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from diffjax.errors import UserError
from diffjax.samplers import multistep
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["UniPC"]

# x before the last step, corrected, and that step's start; the last x0s and log(sigma / alpha); the
# most that the order may be.
Memory = tuple[Images, Float[Array, ""], multistep.History, Int[Array, ""]]


@dataclasses.dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC-p, predicting x0 (Zhao et al. 2023): the predictor UniP-p, then UniC-p.

    The corrector makes use of the next step's own call of the denoiser, and the order p + 1. Its
    equations for the weights are those of a polynomial in log-SNR through the x0s; with two of
    them the authors' code has a half of B(h) instead, where alone B_1 and B_2 differ. With
    lower_final the last steps have the orders 2 and 1, as in the authors' code. Raises UserError
    unless p is 1 to 3.
    """

    p: int = 2
    b: Literal[1, 2] = 2
    lower_final: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.p <= 3:
            raise UserError(f"unipc(p={self.p}): choose p from 1 to 3")

    @property
    def order(self) -> int:
        return self.p + 1

    def init(self, x: Images, steps: Int[Array, ""]) -> Memory:
        left = jnp.where(self.lower_final, steps, multistep.MANY)
        return x, jnp.zeros(()), multistep.empty(x, self.p), left

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
        start, before, history, left = memory
        x0 = denoise(x, t).x0
        x = lax.cond(
            jnp.isinf(history[1][0]),
            lambda: x,
            lambda: self._move(schedule, start, before, t, _lowered(history, left + 1), x0),
        )
        history = multistep.remember(history, x0, -schedule.log_snr(t) / 2)
        moved = self._move(schedule, x, t, s, _lowered(history, left))
        return moved, (x, t, history, left - 1)

    def _move(
        self,
        schedule: Schedule,
        x: Images,
        t: Times,
        s: Times,
        history: multistep.History,
        x0_s: Images | None = None,
    ) -> Images:
        """x from t to s by the x0s at t and before it, and by that at s where it is known."""
        (_, sigma), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        predictions, nodes = history
        now = nodes[0]
        # The step to 0, of infinite length, takes x0 as it is.
        to = jnp.where(s > 0, -schedule.log_snr(s) / 2, now)
        if x0_s is not None:
            predictions, nodes = jnp.insert(predictions, 1, x0_s, 0), jnp.insert(nodes, 1, to)
        # x0's share of x over alpha_s: dx = x0 d(1 - exp(-step)), a step's length in log-SNR / 2.
        shares = multistep.weights(nodes, now, to, lambda at: -jnp.exp(to - at))
        whole = -jnp.expm1((schedule.log_snr(t) - schedule.log_snr(s)) / 2)
        if len(nodes) > 1:
            b = whole if self.b == 2 else now - to
            half = b / 2 * (to - now) / jnp.where(jnp.isinf(nodes[1]), 1.0, nodes[1] - now)
            two = jnp.isfinite(nodes).sum() == 2
            shares = shares.at[1].set(jnp.where(two, half, shares[1]))
        x0 = predictions[0]
        return sigma_s / sigma * x + alpha_s * (
            whole * x0 + multistep.changes(shares[1:], predictions[1:], x0)
        )


def _lowered(history: multistep.History, order: Int[Array, ""]) -> multistep.History:
    """Those of the predictions that a method of this order looks at; the newest always."""
    predictions, nodes = history
    return predictions, nodes.at[1:].set(multistep.lowered(nodes[1:], order))

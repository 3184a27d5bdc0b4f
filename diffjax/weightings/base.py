"""What a weighting is, and the one way from it to the weight of what a network predicts."""

import abc
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.process import Process
from diffjax.schedules.base import NO_SIGNAL, Schedule
from diffjax.typing import Times

# How near to 0 and 1 a schedule's slope is taken: at the ends themselves it may be infinite.
NEAREST = 1e-6


@dataclasses.dataclass(frozen=True)
class Weighting(abc.ABC):
    """The weight of a noise level, said of the squared error of eps whatever the network predicts.

    With per_log_snr it is a density over log-SNR and not over time, as the bound's is: the loss is
    then multiplied by -d log_snr / dt, so that, but for its ends, no schedule changes it.
    """

    per_log_snr: ClassVar[bool] = False

    @abc.abstractmethod
    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """The weight at an SNR in (0, inf), finite for those of log-SNR -40 to 40."""

    def of_target(self, process: Process, t: Times) -> Float[Array, "..."]:
        """The weight of the squared error of the process's own target at t in (0, 1]: finite.

        So every target has the same loss for the same prediction.
        """
        weight = self.of_eps(jnp.exp(_log_snr(process.schedule, t)))
        if self.per_log_snr:
            weight = weight * rate(process.schedule, t)
        return weight * eps_error_of(process, t)


def eps_error_of(process: Process, t: Times) -> Float[Array, "..."]:
    """The squared error of eps that a squared error of 1 in the process's target is, t in (0, 1].

    A prediction adds up to x: its errors keep alpha dx0 + sigma deps = 0. Written in log-SNR, that
    does not end in 0 where a flow's alpha does.
    """
    log_snr = _log_snr(process.schedule, t)
    match process.target:
        case "eps":
            return jnp.ones_like(log_snr)
        case "x0":
            return jnp.exp(log_snr)
        case "v":  # alpha², where alpha² + sigma² = 1
            return jax.nn.sigmoid(log_snr)
        case "velocity":  # alpha², where alpha + sigma = 1
            return jax.nn.sigmoid(log_snr / 2) ** 2
        case "score":
            return process.schedule.alpha_sigma(t)[1] ** 2
        case "edm":
            variance = process.sigma_data**2
            return variance / (jnp.exp(-log_snr) + variance)


def rate(schedule: Schedule, t: Times) -> Float[Array, "..."]:
    """-d log_snr / dt at t in (0, 1], finite."""
    t = jnp.clip(t, NEAREST, 1 - NEAREST)
    _, slope = jax.jvp(schedule.log_snr, (t,), (jnp.ones_like(t),))
    return -slope


def _log_snr(schedule: Schedule, t: Times) -> Float[Array, "..."]:
    return jnp.clip(schedule.log_snr(t), NO_SIGNAL, -NO_SIGNAL)

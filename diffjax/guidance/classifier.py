"""Guidance by a classifier's gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.guidance.base import Scale
from diffjax.process import expand
from diffjax.schedules.base import NO_SIGNAL, Schedule
from diffjax.typing import Denoiser, Images, Prediction, Times

LogProb = Callable[[Images, Times], Float[Array, "B"]]


def classifier_guidance(
    denoise: Denoiser, schedule: Schedule, log_prob: LogProb, scale: Scale
) -> Denoiser:
    """eps - scale sigma grad log p(y | x_t) (Dhariwal & Nichol 2021, algorithm 2); 0 is off.

    log_prob(x, t) is log p(y | x_t) in nats of each sample, which depends on no other.
    """

    def guided(x: Images, t: Times) -> Prediction:
        alpha, sigma = (expand(c, x) for c in schedule.alpha_sigma(t))
        x0, eps, fraction = denoise(x, t)
        gradient = jax.grad(lambda x: jnp.sum(log_prob(x, t)))(x)
        # Where no signal is left, x tells nothing of y, and eps is x / sigma whatever one says.
        signal = expand(schedule.log_snr(t), x) > NO_SIGNAL
        pull = jnp.where(signal, expand(scale, x) * sigma * gradient, 0.0)
        ratio = sigma / jnp.where(signal, alpha, 1.0)
        return Prediction(x0 + ratio * pull, eps - pull, fraction)

    return guided


def on_x0(
    denoise: Denoiser, judge: Callable[[Images], Float[Array, "B"]], limit: float | None = 1.0
) -> LogProb:
    """log p(y | x0) of a classifier of clean images, asked about the predicted x0.

    That stands in for log p(y | x_t), which such a classifier, not trained on noise, does not know
    (the forward guidance of Bansal et al. 2023). It sees x0 clipped to [-limit, limit], as what it
    learnt from, where there is a limit; its gradient costs one pass back through the denoiser.
    """
    if limit is None:
        return lambda x, t: judge(denoise(x, t).x0)
    return lambda x, t: judge(jnp.clip(denoise(x, t).x0, -limit, limit))

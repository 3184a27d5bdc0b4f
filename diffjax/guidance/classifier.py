"""Guidance by a classifier's gradient."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from diffjax.guidance.base import Scale
from diffjax.process import expand
from diffjax.schedules.base import NO_SIGNAL, Schedule
from diffjax.typing import Denoiser, Images, Params, Prediction, Times

LogProb = Callable[[Images, Times], Float[Array, "B"]]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ClassLogProb:
    """log p(label | image) of a classifier of clean images, in nats; `model` returns its logits
    and features."""

    model: nn.Module

    def __call__(
        self, params: Params, images: Images, targets: Int[Array, "B"]
    ) -> Float[Array, "B"]:
        logits, _ = self.model.apply({"params": params}, images)
        return jax.nn.log_softmax(logits)[jnp.arange(len(targets)), targets]


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

"""The forward process and the one hub through which every network output becomes a prediction."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.schedules.base import Schedule
from diffjax.typing import Apply, Cond, Denoiser, Images, Params, Prediction, Target, Times


def expand(c: Float[Array, "*n"], x: Float[Array, "B ..."]) -> Float[Array, "..."]:
    """A coefficient, one for all or one a sample, with the axes that broadcast it over x."""
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) if c.ndim else c


@dataclasses.dataclass(frozen=True)
class Process:
    """A Gaussian diffusion: a schedule, and what the network is trained to give back.

    target: `eps` the noise (Ho et al. 2020), `x0` the clean image, or
    `v` = alpha eps - sigma x0 (Salimans & Ho 2022, appendix D).
    """

    schedule: Schedule
    target: Target = "eps"

    def q_sample(self, x0: Images, eps: Images, t: Times) -> Images:
        """x at time t in [0, 1], straight from x0 and unit noise (Ho et al. 2020, eq. 4)."""
        alpha, sigma = (expand(c, x0) for c in self.schedule.alpha_sigma(t))
        return alpha * x0 + sigma * eps

    def target_of(self, x0: Images, eps: Images, t: Times) -> Images:
        """What the network should give back for q_sample(x0, eps, t)."""
        alpha, sigma = (expand(c, x0) for c in self.schedule.alpha_sigma(t))
        match self.target:
            case "eps":
                return eps
            case "x0":
                return x0
            case "v":
                return alpha * eps - sigma * x0

    def to_prediction(self, output: Images, x: Images, t: Times) -> Prediction:
        """The network's output for x at time t in (0, 1], as both x0 and eps."""
        alpha, sigma = (expand(c, x) for c in self.schedule.alpha_sigma(t))
        match self.target:
            case "eps":
                return Prediction((x - sigma * output) / alpha, output)
            case "x0":
                return Prediction(output, (x - alpha * output) / sigma)
            case "v":
                return Prediction(alpha * x - sigma * output, sigma * x + alpha * output)

    def model_time(self, t: Times) -> Times:
        """t in [0, 1] on the scale that networks are trained with: DDPM's index, 0 to T - 1."""
        return t * self.schedule.steps - 1

    def denoiser(self, apply: Apply, params: Params, cond: Cond = None) -> Denoiser:
        """The network as samplers see it; `apply` is a module's, `cond` its third argument."""

        def denoise(x: Images, t: Times) -> Prediction:
            times = jnp.broadcast_to(self.model_time(t), x.shape[:1])
            extra: tuple[Any, ...] = () if cond is None else (cond,)
            return self.to_prediction(apply({"params": params}, x, times, *extra), x, t)

        return denoise


def posterior(
    schedule: Schedule, x0: Images, x: Images, t: Times, s: Times
) -> tuple[Images, Float[Array, "..."]]:
    """Mean and variance of q(x_s | x_t, x0) for 0 <= s < t <= 1 (Ho et al. 2020, eqs. 6 and 7)."""
    alpha_t, _ = schedule.alpha_sigma(t)
    alpha_s, sigma_s = schedule.alpha_sigma(s)
    log_snr_t, log_snr_s = schedule.log_snr(t), schedule.log_snr(s)
    # sigma_s² alpha_t² / (sigma_t² alpha_s²) = SNR(t) / SNR(s), and 1 minus it without cancelling.
    ratio, gap = jnp.exp(log_snr_t - log_snr_s), -jnp.expm1(log_snr_t - log_snr_s)
    mean = expand(ratio * alpha_s / alpha_t, x) * x + expand(alpha_s * gap, x) * x0
    return mean, expand(sigma_s**2 * gap, x)

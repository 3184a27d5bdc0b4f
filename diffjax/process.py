"""The forward process and the one hub through which every network output becomes a prediction."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.schedules.base import Schedule
from diffjax.schedules.flow import Flow
from diffjax.typing import Apply, Cond, Denoiser, Images, Params, Prediction, Target, Times


def expand(c: Float[Array, "*n"], x: Float[Array, "B ..."]) -> Float[Array, "..."]:
    """A coefficient, one for all or one a sample, with the axes that broadcast it over x."""
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) if c.ndim else c


@dataclasses.dataclass(frozen=True)
class Process:
    """A Gaussian diffusion: a schedule, and what the network is trained to give back.

    target: `eps` the noise (Ho et al. 2020), `x0` the clean image,
    `v` = alpha eps - sigma x0 (Salimans & Ho 2022, appendix D),
    `velocity` = eps - x0 of a flow (Liu et al. 2023), `score` = -eps / sigma (Song et al. 2021), or
    `edm`, Karras et al.'s F (2022, eq. 7), which takes the images' standard deviation `sigma_data`.
    With learned_variance the network has twice the channels: the second half tells each step's
    variance (Nichol & Dhariwal 2021, eq. 15).

    Raises UserError where the schedule and the target do not go together.
    """

    schedule: Schedule
    target: Target = "eps"
    sigma_data: float = 0.5
    learned_variance: bool = False

    def __post_init__(self) -> None:
        name = type(self.schedule).__name__
        if self.target in ("eps", "score") and self.schedule.zero_terminal:
            raise UserError(
                f"target {self.target} says nothing of the image at t = 1, where {name} leaves "
                "pure noise: choose " + ("velocity, " if self._flows else "v, ") + "x0 or edm"
            )
        if self.target == "v" and not self.schedule.variance_preserving:
            raise UserError(
                f"target v needs a variance-preserving schedule, which {name} is not: "
                "choose " + ("velocity, x0 or edm" if self._flows else "eps, x0, score or edm")
            )
        if self.target == "velocity" and not self._flows:
            raise UserError(
                f"target velocity needs schedule flow, not {name}: choose eps, x0, score, edm"
                + (" or v" if self.schedule.variance_preserving else "")
            )
        if not self.sigma_data > 0:
            raise UserError(f"sigma_data={self.sigma_data}: choose a number above 0")

    @property
    def _flows(self) -> bool:
        return isinstance(self.schedule, Flow)

    def q_sample(self, x0: Images, eps: Images, t: Times) -> Images:
        """x at time t in [0, 1], straight from x0 and unit noise (Ho et al. 2020, eq. 4)."""
        alpha, sigma = (expand(c, x0) for c in self.schedule.alpha_sigma(t))
        return alpha * x0 + sigma * eps

    def target_of(self, x0: Images, eps: Images, t: Times) -> Images:
        """What the network should give back for q_sample(x0, eps, t), t in (0, 1]."""
        alpha, sigma = (expand(c, x0) for c in self.schedule.alpha_sigma(t))
        match self.target:
            case "eps":
                return eps
            case "x0":
                return x0
            case "v":
                return alpha * eps - sigma * x0
            case "velocity":
                return eps - x0
            case "score":
                return -eps / sigma
            case "edm":
                scale = jnp.sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)
                return (sigma * x0 - alpha * self.sigma_data**2 * eps) / (scale * self.sigma_data)

    def to_prediction(self, output: Images, x: Images, t: Times) -> Prediction:
        """The network's output for x at time t in (0, 1], as both x0 and eps."""
        fraction = None
        if self.learned_variance:
            output, raw = jnp.split(output, 2, axis=-1)
            fraction = (raw + 1) / 2
        alpha, sigma = (expand(c, x) for c in self.schedule.alpha_sigma(t))
        match self.target:
            case "eps":
                return Prediction((x - sigma * output) / alpha, output, fraction)
            case "x0":
                return Prediction(output, (x - alpha * output) / sigma, fraction)
            case "v":
                x0, eps = alpha * x - sigma * output, sigma * x + alpha * output
                return Prediction(x0, eps, fraction)
            case "velocity":
                return Prediction(x - sigma * output, x + alpha * output, fraction)
            case "score":
                eps = -sigma * output
                return Prediction((x - sigma * eps) / alpha, eps, fraction)
            case "edm":
                variance = sigma**2 + (alpha * self.sigma_data) ** 2
                spread = self.sigma_data / jnp.sqrt(variance)
                x0 = alpha * self.sigma_data**2 / variance * x + sigma * spread * output
                return Prediction(x0, sigma / variance * x - alpha * spread * output, fraction)

    def model_input(self, x: Images, t: Times) -> Images:
        """x on the scale that networks are given: of unit variance where the schedule lets it grow.

        That is Karras et al.'s c_in (2022, eq. 7 and table 1).
        """
        if self.target != "edm" and (self.schedule.variance_preserving or self._flows):
            return x
        alpha, sigma = (expand(c, x) for c in self.schedule.alpha_sigma(t))
        return x / jnp.sqrt(sigma**2 + (alpha * self.sigma_data) ** 2)

    def model_time(self, t: Times) -> Times:
        """t in [0, 1] on the scale that networks are trained with: DDPM's index, 0 to T - 1."""
        return t * self.schedule.steps - 1

    def denoiser(self, apply: Apply, params: Params, cond: Cond = None) -> Denoiser:
        """The network as samplers see it; `apply` is a module's, `cond` its third argument."""

        def denoise(x: Images, t: Times) -> Prediction:
            times = jnp.broadcast_to(self.model_time(t), x.shape[:1])
            extra: tuple[Any, ...] = () if cond is None else (cond,)
            output = apply({"params": params}, self.model_input(x, t), times, *extra)
            return self.to_prediction(output, x, t)

        return denoise

    def bind(self, params: Params) -> "Process":
        """The process with a learnt schedule's parameters; itself, where none is learnt."""
        schedule = self.schedule.bind(params)
        return self if schedule is self.schedule else dataclasses.replace(self, schedule=schedule)


def posterior(
    schedule: Schedule, x0: Images, x: Images, t: Times, s: Times
) -> tuple[Images, Float[Array, "..."]]:
    """Mean and variance of q(x_s | x_t, x0) for 0 <= s < t <= 1 (Ho et al. 2020, eqs. 6 and 7)."""
    _, sigma_t = schedule.alpha_sigma(t)
    alpha_s, sigma_s = schedule.alpha_sigma(s)
    step = schedule.log_snr(t) - schedule.log_snr(s)
    # SNR(t) / SNR(s) = sigma_s² alpha_t² / (sigma_t² alpha_s²): its root, and 1 minus it without
    # cancelling. alpha_t, which may be 0, divides nothing.
    root, gap = jnp.exp(step / 2), -jnp.expm1(step)
    mean = expand(root * sigma_s / sigma_t, x) * x + expand(alpha_s * gap, x) * x0
    return mean, expand(sigma_s**2 * gap, x)

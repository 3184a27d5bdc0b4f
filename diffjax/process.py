"""The forward process and the one hub through which every network output becomes a prediction."""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from diffjax.errors import UserError
from diffjax.schedules.base import NO_SIGNAL, Schedule
from diffjax.schedules.flow import Flow
from diffjax.typing import (
    Apply,
    Cond,
    Denoiser,
    Images,
    Params,
    Prediction,
    Target,
    TimeInput,
    Times,
)

LEAST_SIGMA = 1e-5  # what a network is told at t = 0, where sigma is 0 and has no logarithm


def expand(c: Shaped[Array, "*n"], x: Float[Array, "B ..."]) -> Shaped[Array, "..."]:
    """A coefficient, one for all or one a sample, with the axes that broadcast it over x."""
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) if c.ndim else c


def told(cond: Cond) -> tuple[Any, ...]:
    """A network's arguments after the time: its condition, if it takes one."""
    return () if cond is None else (cond,)


@dataclasses.dataclass(frozen=True)
class Averaged:
    """A network of average velocity as samplers see it (Geng et al. 2025, eq. 3).

    towards(s) gives the x0 and eps of which alpha_s x0 + sigma_s eps is where the flow leads at s,
    in one step of any length. Itself it is a flow's denoiser: a step of no length is its velocity.
    """

    towards: Callable[[Times | None], Denoiser]

    def __call__(self, x: Images, t: Times) -> Prediction:
        return self.towards(None)(x, t)


@dataclasses.dataclass(frozen=True)
class Process:
    """A Gaussian diffusion: a schedule, and what the network is trained to give back.

    target: `eps` the noise (Ho et al. 2020), `x0` the clean image,
    `v` = alpha eps - sigma x0 (Salimans & Ho 2022, appendix D),
    `velocity` = eps - x0 of a flow (Liu et al. 2023), `score` = -eps / sigma (Song et al. 2021), or
    `edm`, Karras et al.'s F (2022, eq. 7), which takes the images' standard deviation `sigma_data`.
    With learned_variance the network has twice the channels: the second half tells each step's
    variance (Nichol & Dhariwal 2021, eq. 15).
    A consistent process is a consistency model's: see `to_first`. An average one has a network that
    is also told how far a step leads, and gives the velocity's average over it: see `Averaged`.
    time_input: the form of time that the network's embedding was made for, see `model_time`.

    Raises UserError where the schedule, the target and the form of time do not go together.
    """

    schedule: Schedule
    target: Target = "eps"
    sigma_data: float = 0.5
    learned_variance: bool = False
    consistent: bool = False
    average: bool = False
    time_input: TimeInput = "index"

    def __post_init__(self) -> None:
        refusal = self._refusal(self.target)
        if refusal:
            legal = [t for t in get_args(Target) if not self._refusal(t)]
            raise UserError(f"{refusal}: choose {', '.join(legal[:-1])} or {legal[-1]}")
        if self.average and self.consistent:
            raise UserError(
                "a consistency model jumps to the image and is told no spans: leave the network's "
                "spans out"
            )
        if self.average and self.target != "velocity":
            raise UserError(
                "a network that is told spans gives a flow's average velocity: choose schedule "
                "flow and target velocity"
            )
        if not self.sigma_data > 0:
            raise UserError(f"sigma_data={self.sigma_data}: choose a number above 0")
        if self.time_input == "sigma" and self.schedule.zero_terminal:
            raise UserError(
                f"a network that is told sigma needs a bound on it, and {self._name} ends without "
                "any signal: choose a schedule that keeps some, or another time embedding"
            )

    @property
    def _name(self) -> str:
        return type(self.schedule).__name__

    def _refusal(self, target: Target) -> str:
        """Why the target does not go with the schedule; nothing, where it does."""
        name = self._name
        if target in ("eps", "score") and self.schedule.zero_terminal:
            return (
                f"target {target} says nothing of the image at t = 1, where {name} leaves "
                "pure noise"
            )
        if target == "v" and not self.schedule.variance_preserving:
            return f"target v needs a variance-preserving schedule, which {name} is not"
        if target == "velocity" and not self._flows:
            return f"target velocity needs schedule flow, not {name}"
        return ""

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

    def to_prediction(self, output: Float[Array, "B H W D"], x: Images, t: Times) -> Prediction:
        """The network's output for x at time t in (0, 1], as both x0 and eps.

        D is the images' C, and 2 C where the network learns the variance.
        """
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
        """t in [0, 1] as the network takes it, finite from end to end.

        `index` is DDPM's, 0 to T - 1 on its grid and -1 at t = 0 (Ho et al. 2020), `whole_index`
        the nearest whole number, and `count` one more, T t. `sigma` is sigma / alpha, at least 1e-5
        (Song et al. 2021). `log_snr` lies in [-40, 40] (Kingma et al. 2021), and `c_noise`, a
        quarter of log(sigma / alpha), in [-5, 5] (Karras et al. 2022, table 1).
        """
        match self.time_input:
            case "index":
                return t * self.schedule.steps - 1
            case "whole_index":
                return jnp.round(t * self.schedule.steps - 1)
            case "count":
                return t * self.schedule.steps
            case "sigma":
                return jnp.maximum(self.schedule.sigma_ve(t), LEAST_SIGMA)
            case "log_snr":
                return jnp.clip(self.schedule.log_snr(t), NO_SIGNAL, -NO_SIGNAL)
            case "c_noise":
                return jnp.clip(self.schedule.log_snr(t), NO_SIGNAL, -NO_SIGNAL) / -8

    def model_span(self, t: Times, s: Times) -> Times:
        """The way from t down to s < t as the network takes it: so many of the schedule's steps."""
        return (t - s) * self.schedule.steps

    def denoiser(self, apply: Apply, params: Params, cond: Cond = None) -> Denoiser:
        """The network as samplers see it; `apply` is a module's, `cond` its third argument."""

        def towards(s: Times | None) -> Denoiser:
            def denoise(x: Images, t: Times) -> Prediction:
                times = jnp.broadcast_to(self.model_time(t), x.shape[:1])
                seen, more = self.model_input(x, t), {}
                if s is not None:
                    more["span"] = jnp.broadcast_to(self.model_span(t, s), x.shape[:1])
                output = apply({"params": params}, seen, times, *told(cond), **more)
                prediction = self.to_prediction(output, x, t)
                return self.to_first(prediction, t) if self.consistent else prediction

            return denoise

        return Averaged(towards) if self.average else towards(None)

    def to_first(self, prediction: Prediction, t: Times) -> Prediction:
        """A consistency model's f(x, t) as x0: where x lies, over alpha, at the first step's time.

        f = c_skip x / alpha + c_out x0 (Song et al. 2023, section 3), c_out = 1 - c_skip. c_skip is
        the first time's sigma / alpha over that of t, in (0, 1]: f is a DDIM step to the first
        time, and at that time, whatever the network says, it is x / alpha.
        """
        first, now = (self.schedule.sigma_ve(jnp.asarray(c)) for c in (1 / self.schedule.steps, t))
        x0, eps, fraction = prediction
        # x / alpha = x0 + sigma / alpha eps, where nothing is divided by an alpha of 0.
        near = expand(jnp.minimum(first, now), x0)
        return Prediction(x0 + near * eps, (1 - near / expand(now, x0)) * eps, fraction)

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

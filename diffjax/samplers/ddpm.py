"""Ancestral sampling."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.process import Process, expand, posterior
from diffjax.randomness import normal
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Prediction, Times

__all__ = ["DDPM"]


@dataclasses.dataclass(frozen=True)
class DDPM(Sampler):
    """Ho et al. 2020, algorithm 2, between any two times.

    variance: `small` is the posterior's, beta_tilde (eq. 7); `large` is that of q(x_t | x_s), beta,
    right where the data are unit Gaussian; `learned` is the network's own, between the two
    (Nichol & Dhariwal 2021, eq. 15); `previous` is the beta of the step before, as long and into
    x_s, which the course "Generative AI with Diffusion Models" takes. No noise is added on the way
    to t = 0.
    """

    variance: Literal["small", "large", "learned", "previous"] = "small"

    @property
    def order(self) -> int:
        return 0

    def check(self, process: Process) -> None:
        super().check(process)
        if self.variance == "learned" and not process.learned_variance:
            raise UserError(
                "ddpm(variance='learned') needs a model that learnt its variance: "
                "choose small or large",
                option="sampler",
            )

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: tuple[()],
        t: Times,
        s: Times,
    ) -> tuple[Images, tuple[()]]:
        prediction = denoise(x, t)
        mean, variance = posterior(schedule, prediction.x0, x, t, s)
        if self.variance == "previous":
            std = expand(_previous_std(schedule, t, s), x)
        else:
            std = self._growth(schedule, prediction, t, s) * jnp.sqrt(variance)
        return mean + std * normal(keys, x.shape[1:]), memory

    def _growth(
        self, schedule: Schedule, prediction: Prediction, t: Times, s: Times
    ) -> Float[Array, "..."]:
        """The step's standard deviation over the posterior's, from 1 to sigma_t / sigma_s."""
        if self.variance == "small":
            return jnp.ones(())
        fraction: Any = 1.0 if self.variance == "large" else prediction.fraction
        (_, sigma_t), (_, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        # At s = 0, where sigma_s is 0, the posterior has no noise to grow.
        log_growth = jnp.where(s > 0, jnp.log(sigma_t / jnp.where(s > 0, sigma_s, 1.0)), 0.0)
        return jnp.exp(fraction * expand(log_growth, prediction.x0))


def _previous_std(schedule: Schedule, t: Times, s: Times) -> Times:
    """The noise that q(x_s | x_r) adds, r being as far from s as s is from t; 0 at s = 0."""
    before = jnp.maximum(2 * s - t, 0)
    _, sigma = schedule.alpha_sigma(s)
    # At s = 0, where the log-SNR is infinite, another time stands in: sigma is 0 whatever it says.
    gap = schedule.log_snr(jnp.where(s > 0, s, t)) - schedule.log_snr(before)
    return sigma * jnp.sqrt(-jnp.expm1(gap))

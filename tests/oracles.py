"""Closed-form truths that the tests compare with."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from diffjax.process import expand
from diffjax.schedules.base import Schedule
from diffjax.typing import Prediction


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Data drawn from N(mean, std²), pixel by pixel: every conditional mean is known."""

    schedule: Schedule
    mean: float = 0.3
    std: float = 0.5

    def denoise(self, x, t) -> Prediction:
        alpha, sigma = (expand(c, x) for c in self.schedule.alpha_sigma(t))
        variance = alpha**2 * self.std**2 + sigma**2
        x0 = self.mean + alpha * self.std**2 / variance * (x - alpha * self.mean)
        return Prediction(x0, sigma * (x - alpha * self.mean) / variance)

    def flow(self, x, t):
        """Where the probability-flow ODE takes x from time t to 0: the quantile is kept."""
        alpha, sigma = self.schedule.alpha_sigma(jnp.asarray(t, jnp.float32))
        spread = jnp.sqrt(alpha**2 * self.std**2 + sigma**2)
        return self.mean + self.std * (x - alpha * self.mean) / spread


def linear_betas(steps: int = 1000) -> np.ndarray:
    """DDPM's betas (Ho et al. 2020, section 4), in float64."""
    return np.linspace(1e-4, 0.02, steps)

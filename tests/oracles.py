"""Closed-form truths that the tests compare with."""

import dataclasses

import jax
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


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Data drawn from sum_k weight_k N(mean_k, std_k² I), whole images: score and density known.

    Means are the images that `means` fills evenly, but for their upper half, which has the sign
    turned: no component is a constant.
    """

    schedule: Schedule
    means: tuple[float, ...] = (-0.6, 0.1, 0.7)
    stds: tuple[float, ...] = (0.15, 0.3, 0.1)
    weights: tuple[float, ...] = (0.3, 0.5, 0.2)

    def centres(self, shape):
        """The K component means, of shape (K, H, W, C)."""
        sign = jnp.where(jnp.arange(shape[0]) < shape[0] // 2, -1.0, 1.0)[:, None, None]
        return jnp.asarray(self.means)[:, None, None, None] * (sign * jnp.ones(shape))

    def log_terms(self, x, t):
        """log weight_k + log N(x; alpha mean_k, alpha² std_k² + sigma²), of shape (K, B)."""
        alpha, sigma = (jnp.broadcast_to(c, x.shape[:1]) for c in self.schedule.alpha_sigma(t))
        variance = (alpha * jnp.asarray(self.stds)[:, None]) ** 2 + sigma**2
        gap = x - expand(alpha, x) * self.centres(x.shape[1:])[:, None]
        size = x[0].size
        square = jnp.sum(gap**2, axis=(2, 3, 4)) / variance
        log_weights = jnp.log(jnp.asarray(self.weights))[:, None]
        return log_weights - 0.5 * (square + size * jnp.log(2 * jnp.pi * variance))

    def log_prob(self, x, t):
        """Log-density of x at time t in nats, of shape (B,)."""
        return jax.nn.logsumexp(self.log_terms(x, t), axis=0)

    def denoise(self, x, t, only: int | None = None) -> Prediction:
        """E[x0 | x]; of one component alone, where `only` names it."""
        alpha, sigma = (expand(c, x) for c in self.schedule.alpha_sigma(t))
        share = jax.nn.softmax(self.log_terms(x, t), axis=0)
        x0 = jnp.zeros_like(x)
        for k, centre in enumerate(self.centres(x.shape[1:])):
            variance = (alpha * self.stds[k]) ** 2 + sigma**2
            mean = centre + alpha * self.stds[k] ** 2 / variance * (x - alpha * centre)
            if only is None:
                x0 = x0 + share[k][:, None, None, None] * mean
            elif only == k:
                x0 = mean
        return Prediction(x0, (x - alpha * x0) / sigma)

    def draw(self, key, count, shape):
        """Samples of the data, of shape (count, *shape), and the component of each."""
        pick, noise = jax.random.split(key)
        k = jax.random.choice(pick, len(self.means), (count,), p=jnp.asarray(self.weights))
        std = jnp.asarray(self.stds)[k][:, None, None, None]
        return self.centres(shape)[k] + std * jax.random.normal(noise, (count, *shape)), k

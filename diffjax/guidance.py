"""Functions from one denoiser to another."""

import jax.numpy as jnp

from diffjax.process import expand
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Prediction, Times


def clip_x0(denoise: Denoiser, schedule: Schedule, limit: float = 1.0) -> Denoiser:
    """Keeps x0 in [-limit, limit], and eps consistent with it (Ho et al. 2020, section 3.3)."""

    def clipped(x: Images, t: Times) -> Prediction:
        alpha, sigma = (expand(c, x) for c in schedule.alpha_sigma(t))
        x0, _, fraction = denoise(x, t)
        x0 = jnp.clip(x0, -limit, limit)
        return Prediction(x0, (x - alpha * x0) / sigma, fraction)

    return clipped

"""Bounds on the predicted image."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.guidance.base import with_x0
from diffjax.process import expand
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Prediction, Times


def clip_x0(denoise: Denoiser, schedule: Schedule, limit: float = 1.0) -> Denoiser:
    """Keeps x0 in [-limit, limit], and eps consistent with it (Ho et al. 2020, section 3.3)."""

    def clipped(x: Images, t: Times) -> Prediction:
        x0, _, fraction = denoise(x, t)
        return with_x0(schedule, x, t, jnp.clip(x0, -limit, limit), fraction)

    return clipped


def dynamic_threshold(
    denoise: Denoiser, schedule: Schedule, percentile: Float[Array, ""], limit: float = 1.0
) -> Denoiser:
    """Keeps x0 in [-limit, limit] by scaling each image down (Saharia et al. 2022, section 2.3).

    What is scaled down to the limit is the percentile, in [0, 100], of the image's absolute values,
    where that lies above it; what lies above the percentile is clipped.
    """

    def thresholded(x: Images, t: Times) -> Prediction:
        x0, _, fraction = denoise(x, t)
        size = jnp.percentile(jnp.abs(x0).reshape(len(x0), -1), percentile, axis=1)
        most = expand(jnp.maximum(size, limit), x0)
        return with_x0(schedule, x, t, jnp.clip(x0, -most, most) / most * limit, fraction)

    return thresholded

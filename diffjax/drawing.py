"""Samples of a denoiser, as a pure function."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.samplers.base import Sampler, from_noise
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing
from diffjax.typing import Denoiser, Images, Keys


def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    schedule: Schedule,
    keys: Keys,
    shape: tuple[int, int, int],
    *,
    steps: int = 50,
    spacing: Spacing | None = None,
    film: bool = False,
) -> Images | tuple[Images, Float[Array, "F B H W C"]]:
    """One sample per key, of `shape`, from noise down to t = 0; with `film` each step as well.

    Pure: it may be jitted, and what a sample draws depends on its own key alone. spacing: the times
    that are visited, by default those that the sampler does best on. x0 is not bounded here: wrap
    the denoiser in guidance.clip_x0 for images.
    """
    times = jnp.asarray((spacing or sampler.spacing).times(schedule, steps))
    frames, watched = (steps, len(keys)) if film else (1, 0)
    x0, moments = from_noise(
        sampler, schedule, denoiser, keys, shape, times, frames=frames, watched=watched
    )
    return (x0, moments) if film else x0

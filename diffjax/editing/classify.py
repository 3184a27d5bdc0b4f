"""Which class an image is of, as a conditional diffusion model sees it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from diffjax.editing.base import diffuse
from diffjax.process import expand
from diffjax.randomness import fold_in
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images

DRAWS = 16


def likeliest(
    schedule: Schedule,
    conditioned: Callable[[Int[Array, "B"]], Denoiser],
    x: Images,
    classes: int,
    draws: int = DRAWS,
) -> Int[Array, "B"]:
    """The class whose denoiser tells the noise on x best (Li et al. 2023, algorithm 1).

    That is their diffusion classifier, with even times and the same noises for all. conditioned:
    the denoiser of given labels; it is called `draws` times for each of the classes.
    """
    # The same noises for each image, whose class then depends on no other.
    keys = jnp.repeat(jax.random.key(0)[None], len(x))

    def error(number: Int[Array, ""]) -> Float[Array, "B"]:
        label, i = number // draws, number % draws
        t = (i + 0.5) / draws
        noisy = diffuse(schedule, fold_in(keys, i), x, jnp.zeros(()), t)
        alpha, sigma = (expand(c, x) for c in schedule.alpha_sigma(t))
        eps = (noisy - alpha * x) / sigma
        told = conditioned(jnp.full(len(x), label))(noisy, t).eps
        return jnp.mean((told - eps) ** 2, axis=(1, 2, 3))

    errors = lax.map(error, jnp.arange(classes * draws))
    return jnp.argmin(errors.reshape(classes, draws, len(x)).mean(axis=1), axis=0)

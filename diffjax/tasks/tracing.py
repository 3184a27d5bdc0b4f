"""From images back: the noise that a run draws them from, and the class it takes them for."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from diffjax.batches import padded
from diffjax.conditions.base import rows_of
from diffjax.conditions.classes import Classes
from diffjax.editing.classify import DRAWS, likeliest
from diffjax.editing.interpolation import invert
from diffjax.generate import shared_rows
from diffjax.guidance.thresholds import clip_x0
from diffjax.process import Process
from diffjax.spaces.base import Latent, Space
from diffjax.tasks.base import Component
from diffjax.tasks.denoisers import AUTOENCODER, DENOISER, Decoding, DenoiserTask
from diffjax.typing import Cond, Denoiser, Images, Params

BATCH = 64
APPROACH, APPROACHES = 0.05, 100  # Adam's first rate and its steps


def classes_of(
    task: DenoiserTask,
    components: Mapping[str, Component],
    x0: Float[np.ndarray, "N h w c"],
    draws: int = DRAWS,
) -> Int[np.ndarray, "N"] | None:
    """The class of each x0 under which the network errs least; None where it knows no classes.

    It is asked so many times of each class.
    """
    if not isinstance(task.condition, Classes):
        return None
    denoiser = components[DENOISER]
    told = _telling(task.process, denoiser.model, task.condition, draws)
    parts = [
        np.asarray(told(denoiser.params, jnp.asarray(x0[rows]), ()))
        for _, rows in padded(len(x0), min(len(x0), BATCH))
    ]
    return np.concatenate(parts)[: len(x0)]


def x0_behind(
    task: DenoiserTask,
    components: Mapping[str, Component],
    images: Float[np.ndarray, "N H W C"],
) -> Float[np.ndarray, "N h w c"]:
    """The x0 that the run decodes to images in [-1, 1].

    Latents begin as what the encoder gives and go down the gradient of the decoder's error. An
    encoder is no inverse of its decoder (Hong et al. 2024, "Gradient-free decoder inversion in
    latent diffusion models", sec. 1), and little of the noise is left in what it gives.
    """
    x0 = task.x0_of(components, images)
    if not task.space.needs_autoencoder:
        return x0
    stage = components[AUTOENCODER]
    approach = _approaching(task.space, stage.model)
    parts = [
        np.asarray(approach(stage.params, jnp.asarray(x0[rows]), jnp.asarray(images[rows])))
        for _, rows in padded(len(x0), min(len(x0), BATCH))
    ]
    return np.concatenate(parts)[: len(x0)]


def noise_of(
    task: DenoiserTask,
    components: Mapping[str, Component],
    x0: Float[np.ndarray, "N h w c"],
    cond: Cond,
    times: Float[Array, "T"],
) -> Float[np.ndarray, "N h w c"]:
    """The noise at times[0] that leads to x0 down the times, without guidance (`invert`).

    Raises UserError for fewer than two steps.
    """
    denoiser = components[DENOISER]
    noise = _inverting(task.process, denoiser.model, task.space.limit)
    parts = [
        np.asarray(noise(denoiser.params, (jnp.asarray(x0[rows]), rows_of(cond, rows)), times))
        for _, rows in padded(len(x0), min(len(x0), BATCH))
    ]
    return np.concatenate(parts)[: len(x0)]


@functools.lru_cache(maxsize=16)
def _approaching(space: Space, model: nn.Module) -> Callable[[Params, Latent, Images], Latent]:
    """A compiled (the autoencoder's params, x0, images) -> x0; a second call compiles nothing."""
    decode = Decoding(space, model)
    adam = optax.adam(optax.cosine_decay_schedule(APPROACH, APPROACHES))

    def approach(params: Params, x0: Latent, images: Images) -> Latent:
        def error(x0: Latent) -> Float[Array, ""]:
            return ((decode(params, x0) - images) ** 2).sum()

        def step(
            at: tuple[Latent, optax.OptState], _: None
        ) -> tuple[tuple[Latent, optax.OptState], None]:
            x0, state = at
            updates, state = adam.update(jax.grad(error)(x0), state)
            return (x0 + updates, state), None

        return lax.scan(step, (x0, adam.init(x0)), length=APPROACHES)[0][0]

    return jax.jit(approach)


@functools.lru_cache(maxsize=16)
def _telling(
    process: Process, model: nn.Module, condition: Classes, draws: int
) -> Callable[[Params, Images, tuple[()]], Int[Array, "B"]]:
    """A compiled (params, x0, ()) -> classes; a second call compiles nothing."""

    def told(params: Params, x: Images, _: tuple[()]) -> Int[Array, "B"]:
        bound = process.bind(params)

        def conditioned(labels: Int[Array, "B"]) -> Denoiser:
            cond = condition.of_batch({"label": labels})
            return bound.denoiser(model.apply, params, cond)

        return likeliest(bound.schedule, conditioned, x, condition.num_classes, draws)

    return shared_rows(told)


@functools.lru_cache(maxsize=16)
def _inverting(
    process: Process, model: nn.Module, limit: float | None
) -> Callable[[Params, tuple[Images, Cond], Float[Array, "T"]], Images]:
    """A compiled (params, (x0, cond), times) -> noise; a second call compiles nothing."""

    def noise(params: Params, rows: tuple[Images, Cond], times: Float[Array, "T"]) -> Images:
        x, cond = rows
        bound = process.bind(params)
        denoise = bound.denoiser(model.apply, params, cond)
        if limit is not None:
            denoise = clip_x0(denoise, bound.schedule, limit)
        return invert(bound.schedule, denoise, x, times)

    return shared_rows(noise)

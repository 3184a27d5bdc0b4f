"""From images back: the noise that a run draws them from, and the class it takes them for."""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from diffjax.batches import padded
from diffjax.conditions.base import rows_of
from diffjax.conditions.classes import Classes
from diffjax.editing.classify import DRAWS, likeliest
from diffjax.editing.interpolation import invert
from diffjax.generate import shared_rows
from diffjax.guidance.thresholds import clip_x0
from diffjax.process import Process
from diffjax.tasks.base import Component
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.typing import Cond, Denoiser, Images, Params

BATCH = 64


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

"""From images back: the noise that a run draws them from, and the class it takes them for."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.batches import padded
from diffjax.conditions.base import rows_of
from diffjax.conditions.classes import Classes
from diffjax.editing.classify import likeliest
from diffjax.editing.interpolation import invert
from diffjax.guidance.thresholds import clip_x0
from diffjax.tasks.base import Component
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.typing import Cond, Denoiser, Images, Params

BATCH = 64


def classes_of(
    task: DenoiserTask, components: Mapping[str, Component], x0: Float[np.ndarray, "N h w c"]
) -> Int[np.ndarray, "N"] | None:
    """The class of each x0 under which the network errs least; None where it knows no classes."""
    if not isinstance(condition := task.condition, Classes):
        return None
    denoiser, classes = components[DENOISER], condition.num_classes
    process = task.process.bind(denoiser.params)

    @jax.jit
    def told(params: Params, x: Images) -> Int[Array, "B"]:
        def conditioned(labels: Int[Array, "B"]) -> Denoiser:
            cond = condition.of_batch({"label": labels})
            return process.denoiser(denoiser.model.apply, params, cond)

        return likeliest(process.schedule, conditioned, x, classes)

    parts = [
        np.asarray(told(denoiser.params, jnp.asarray(x0[rows])))
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
    process, limit = task.process.bind(denoiser.params), task.space.limit

    @jax.jit
    def noise(params: Params, x: Images, cond: Cond) -> Images:
        denoise = process.denoiser(denoiser.model.apply, params, cond)
        if limit is not None:
            denoise = clip_x0(denoise, process.schedule, limit)
        return invert(process.schedule, denoise, x, times)

    parts = [
        np.asarray(noise(denoiser.params, jnp.asarray(x0[rows]), rows_of(cond, rows)))
        for _, rows in padded(len(x0), min(len(x0), BATCH))
    ]
    return np.concatenate(parts)[: len(x0)]

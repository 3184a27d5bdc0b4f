"""How likely a family finds held-out images, where it has a bound to tell."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.data.iterate import Batch
from diffjax.likelihood.measure import Effort, estimate, make_measure
from diffjax.runs import Run
from diffjax.tasks.autoencoder import Autoencoding
from diffjax.tasks.base import params_of
from diffjax.tasks.denoisers import DENOISER
from diffjax.tasks.diffusion import Diffusion

Read = Callable[[tuple[str, ...]], Batch]
BATCH = 50
EFFORT = Effort(draws=10)


def bits_of(run: Run[Any], read: Read, seed: int) -> dict[str, float] | None:
    """Bits/dim of held-out images: the bound's mean, and its standard error over images.

    read: gives the parts of these images that are named. None of a family without a bound on
    8-bit images: a GAN, codes or latents, and networks that tell where noise ends up.
    """
    task = run.task
    if isinstance(task, Autoencoding) and not task.quantises and task.likelihood == "levels":
        return _of_autoencoder(run, read(("image",))["image"], seed)
    if isinstance(task, Diffusion) and task.space.limit and not _skips(task):
        return _of_diffusion(run, read(("image", *task.condition.batch_keys)), seed)
    return None


def _skips(task: Diffusion) -> bool:
    return task.consistent or task.model.told_spans


def _of_autoencoder(run: Run[Autoencoding], images: np.ndarray, seed: int) -> dict[str, float]:
    outcome = run.task.tried(params_of(run.components), images, seed)
    bits = (outcome.nats + outcome.nll) / (math.prod(run.task.image_shape) * math.log(2))
    error = bits.std(ddof=1) / len(bits) ** 0.5
    return {"mean": run.task.figures(outcome)["bits_per_dim"], "error": float(error)}


def _of_diffusion(run: Run[Diffusion], real: Batch, seed: int) -> dict[str, float]:
    denoiser, cond = run[DENOISER], run.task.condition.of_batch(jax.tree.map(jnp.asarray, real))
    process = run.task.process
    tell = make_measure(
        denoiser.model.apply, process, denoiser.params, EFFORT, names=("continuous",)
    )
    values = tell(real["image"], cond, seed, BATCH)
    found = estimate(values["continuous total"])
    return {"mean": found.mean, "error": found.error}

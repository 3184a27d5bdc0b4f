"""The error of what a run's network is trained to tell, on images that it has not seen."""

import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.batches import padded
from diffjax.data.iterate import Batch
from diffjax.objectives.denoising import target_error
from diffjax.randomness import fold_in, sample_keys
from diffjax.runs import Run
from diffjax.tasks.base import params_of
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from experiments.evaluations.held_out import BATCH_SIZE, SEED
from experiments.evaluations.saved import save
from experiments.flags import kinds

DRAWS = kinds.define_integer(
    "loss_draws", 10, "loss: times and noises that each image is seen at", lower_bound=1
)
OWN = (DRAWS,)


def tell_loss(run: Run[DenoiserTask], real: Batch, path: pathlib.Path) -> None:
    """Measures the error on the images, saves and prints it."""
    errors = errors_of(run, real).mean(axis=0)
    mean, error = errors.mean(), errors.std(ddof=1) / np.sqrt(len(errors))
    about = {"num": len(errors), "step": run.step, "seed": SEED.value, "draws": DRAWS.value}
    saved = save(path, {"loss": {**about, "mean": float(mean), "error": float(error)}})
    print(
        f"held-out loss {mean:.5f}, standard error {error:.5f}: the squared error of "
        f"{run.task.target} over {len(errors)} images, step {run.step}, {saved}"
    )


def errors_of(run: Run[DenoiserTask], real: Batch) -> Float[np.ndarray, "D N"]:
    """Of each draw and image, whatever the batches."""
    task, denoiser = run.task, run[DENOISER]
    error = jax.jit(target_error(task.process, denoiser.model.apply, task.condition))
    encode = jax.jit(partial(task.encoded, run.components, params_of(run.components)))
    num, found = len(real["image"]), []
    for first, rows in padded(num, min(BATCH_SIZE.value, num)):
        keys = sample_keys(jax.random.key(SEED.value), first, len(rows))
        batch = encode(keys, {key: jnp.asarray(values[rows]) for key, values in real.items()})
        draws = [error(denoiser.params, fold_in(keys, draw), batch) for draw in range(DRAWS.value)]
        found.append(jax.device_get(draws))
    return np.concatenate(found, axis=1)[:, :num]

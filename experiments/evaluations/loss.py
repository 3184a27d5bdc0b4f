"""The error of what a run's network is trained to tell, on images that it has not seen."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float

from diffjax.batches import padded
from diffjax.objectives.denoising import target_error
from diffjax.randomness import fold_in, sample_keys
from diffjax.trained import Trained
from experiments.evaluations.held_out import BATCH_SIZE, SEED, Real
from experiments.evaluations.saved import save

DRAWS = flags.DEFINE_integer(
    "loss_draws", 10, "loss: times and noises that each image is seen at", lower_bound=1
)
OWN = (DRAWS,)


def tell_loss(trained: Trained, real: Real, path: pathlib.Path) -> None:
    """Measures the error on the images, saves and prints it."""
    errors = errors_of(trained, real).mean(axis=0)
    mean, error = errors.mean(), errors.std(ddof=1) / np.sqrt(len(errors))
    about = {"num": len(errors), "step": trained.step, "seed": SEED.value, "draws": DRAWS.value}
    save(path, {"loss": {**about, "mean": float(mean), "error": float(error)}})
    print(
        f"held-out loss {mean:.5f}, standard error {error:.5f}: the squared error of "
        f"{trained.config.target} over {len(errors)} images, step {trained.step}, in {path}"
    )


def errors_of(trained: Trained, real: Real) -> Float[np.ndarray, "D N"]:
    """Of each draw and image, whatever the batches."""
    error = jax.jit(target_error(trained.process, trained.model.apply, trained.config.num_classes))
    num, size, found = len(real.images), min(BATCH_SIZE.value, len(real.images)), []
    for first, rows in padded(num, size):
        batch = {"image": jnp.asarray(real.images[rows])}
        if real.labels is not None:
            batch["label"] = jnp.asarray(real.labels[rows])
        keys = sample_keys(jax.random.key(SEED.value), first, size)
        draws = [error(trained.params, fold_in(keys, draw), batch) for draw in range(DRAWS.value)]
        found.append(jax.device_get(draws))
    return np.concatenate(found, axis=1)[:, :num]

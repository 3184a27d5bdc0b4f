"""Runs of random weights, written without training."""

import jax
import numpy as np

import diffjax as dj
from diffjax import runs
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.run import RunFolder
from diffjax.training.step import TrainState


def random_weights(like):
    """Float32 weights of those shapes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), like)


def random_run(path, task):
    """A run of this task in a new folder `path`, at step 1, loaded."""
    params = random_weights(jax.eval_shape(lambda: task.init(jax.random.key(0), {})))
    config = runs.RunConfig(task, runs.Training())
    with (
        RunFolder.create(path, config.to_dict(), "") as folder,
        Checkpoints(folder.checkpoints) as checkpoints,
    ):
        checkpoints.save(1, TrainState(np.int32(1), params, params, {}, {}), {})
    return dj.load(path)

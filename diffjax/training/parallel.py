"""Devices: the only file that names pmap."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffjax.training.step import Batch, Metrics, TrainState, TrainStep

AXIS = "batch"


def pmap_steps(step: TrainStep) -> Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]:
    """Several train steps in one dispatch, on all devices of this process.

    Takes a replicated state (donated), a replicated key and batches laid out by shard_batches;
    metrics come back with one entry a step.
    """

    def steps(state: TrainState, key: Any, batches: Batch) -> tuple[TrainState, Metrics]:
        return lax.scan(lambda state, batch: step(state, key, batch), state, batches)

    return jax.pmap(steps, AXIS, in_axes=(None, None, 0), out_axes=None, donate_argnums=0)


def replicate(tree: Any) -> Any:
    """The same arrays on every device of this process."""
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def shard_batches(batches: Mapping[str, np.ndarray]) -> Batch:
    """Host arrays (steps, batch, ...) onto devices as (device, steps, batch / devices, ...)."""
    mesh = _mesh()

    def shard(array: np.ndarray) -> jax.Array:
        steps, batch, *rest = array.shape
        cut = array.reshape(steps, mesh.size, batch // mesh.size, *rest).swapaxes(0, 1)
        return jax.device_put(cut, NamedSharding(mesh, PartitionSpec(AXIS)))

    return {name: shard(array) for name, array in batches.items()}


def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.local_devices()), (AXIS,))

"""Devices and processes: the only file that names pmap.

The state is the same on all devices of all processes; the batch is cut among them.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from diffjax.compiling import RUNS_ONCE, cpu_options, step_options
from diffjax.devices import ordered
from diffjax.training.step import Batch, Metrics, TrainState, TrainStep
from diffjax.typing import Params

AXIS = "batch"
T = TypeVar("T")


@runtime_checkable
class Steps(Protocol):
    """Several train steps in one dispatch, over batches that lead with the steps."""

    def __call__(
        self, state: TrainState, key: Any, batches: Batch, frozen: Params | None = None
    ) -> tuple[TrainState, Metrics]: ...


@runtime_checkable
class Parallelism(Protocol):
    """A way to run train steps on all devices."""

    @property
    def axis_name(self) -> str | None:
        """What the step is to average over; None where it sees the global batch."""

    def compile(self, step: TrainStep) -> Steps:
        """Several steps in one dispatch: (state, key, batches, frozen) -> (state, metrics).

        State, key and frozen are as `replicate` lays them out, the batches as `shard` does. The
        state is donated. Metrics have one entry per step.
        """

    def shard(self, batches: Mapping[str, np.ndarray]) -> Batch:
        """This process's part of the batches, (steps, batch / processes, ...), onto its devices."""


@dataclasses.dataclass(frozen=True)
class Pmap:
    """A program a device, over its share of the batch."""

    axis_name: str = AXIS

    def compile(self, step: TrainStep) -> Steps:
        run = _compiled(
            jax.pmap(
                _scanned(step),
                AXIS,
                in_axes=(None, None, 0, None),
                out_axes=None,
                devices=ordered(),
                donate_argnums=0,
            )
        )

        def steps(
            state: TrainState, key: Any, batches: Batch, frozen: Params | None = None
        ) -> tuple[TrainState, Metrics]:
            state, metrics = run(state, key, batches, frozen)
            if jax.process_count() == 1:
                return state, metrics
            # pmap speaks of its own process's devices; the same buffers are part of a whole.
            return jax.tree.map(_globally, state), metrics

        return steps

    def shard(self, batches: Mapping[str, np.ndarray]) -> Batch:
        devices = jax.local_device_count()

        def cut(array: np.ndarray) -> np.ndarray:
            steps, batch, *rest = array.shape
            return array.reshape(steps, devices, batch // devices, *rest).swapaxes(0, 1)

        return _place({name: cut(array) for name, array in batches.items()}, PartitionSpec(AXIS))


@dataclasses.dataclass(frozen=True)
class Jit:
    """One program over the global batch, which XLA cuts along a mesh of all devices."""

    axis_name: None = None

    def compile(self, step: TrainStep) -> Steps:
        return jax.jit(
            _scanned(step),
            donate_argnums=0,
            out_shardings=_everywhere(),
            compiler_options=step_options(),
        )

    def shard(self, batches: Mapping[str, np.ndarray]) -> Batch:
        return _place(batches, PartitionSpec(None, AXIS))


PARALLELISM: dict[str, Parallelism] = {"pmap": Pmap(), "jit": Jit()}


def replicate(make: Callable[..., T], *args: Any) -> T:
    """What `make`, a pure function of trees of host arrays, returns, on every device."""
    options = cpu_options(RUNS_ONCE)
    return jax.jit(make, out_shardings=_everywhere(), compiler_options=options)(*args)


def on_one_device(tree: T) -> T:
    """A replicated tree as this process's first device holds it; nothing is copied."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def wait_for_all(what: str) -> None:
    """Returns once every process has come to this point, and all devices have met.

    On a CPU devices that first meet in a train step give up on one whose step is compiled half a
    minute later.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
        met = jax.pmap(lambda one: lax.psum(one, AXIS), AXIS)(np.ones(jax.local_device_count()))
        jax.block_until_ready(met)


def _scanned(step: TrainStep) -> Steps:
    def steps(
        state: TrainState, key: Any, batches: Batch, frozen: Params | None = None
    ) -> tuple[TrainState, Metrics]:
        return lax.scan(lambda state, batch: step(state, key, batch, frozen), state, batches)

    return steps


def _compiled(run: Any) -> Steps:
    """A pmapped function with the compiler options of a train step, which pmap does not take."""
    options = step_options()
    if options is None:
        return run
    programs: dict[Any, Any] = {}

    def steps(
        state: TrainState, key: Any, batches: Batch, frozen: Params | None = None
    ) -> tuple[TrainState, Metrics]:
        # Of one run's arguments only the number of steps in a dispatch changes.
        shape = jax.tree.leaves(batches)[0].shape
        if shape not in programs:
            lowered = run.lower(state, key, batches, frozen)
            programs[shape] = lowered.compile(compiler_options=options)
        return programs[shape](state, key, batches, frozen)

    return steps


def _place(arrays: Mapping[str, np.ndarray], spec: PartitionSpec) -> Batch:
    sharding = NamedSharding(_mesh(), spec)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in arrays.items()}


def _globally(array: jax.Array) -> jax.Array:
    parts = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, _everywhere(), parts)


def _everywhere() -> NamedSharding:
    return NamedSharding(_mesh(), PartitionSpec())


def _mesh() -> Mesh:
    return Mesh(np.asarray(ordered()), (AXIS,))

"""A run as objects: its network and process, and the weights it has reached."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import diffjax.models
import diffjax.schedules
from diffjax import spec
from diffjax.process import Process
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.run import RunConfig, RunFolder
from diffjax.typing import Params


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a run has learnt: EMA weights at `step`."""

    config: RunConfig
    model: nn.Module
    process: Process
    step: int
    params: Params


def build(config: RunConfig) -> tuple[nn.Module, Process]:
    """The network and the process that a config describes."""
    model = spec.build(config.model, diffjax.models)
    schedule = spec.build(config.schedule, diffjax.schedules)
    return model, Process(schedule, config.target)


def init_params(model: nn.Module, config: RunConfig, key: Any) -> Params:
    """Fresh parameters; a function of the key alone, fit for jit and eval_shape."""
    x = jnp.zeros((1, *config.image_shape))
    labels = () if config.num_classes is None else (jnp.zeros((1,), jnp.int32),)
    return model.init(key, x, jnp.zeros((1,)), *labels)["params"]


def load(folder: str | os.PathLike[str]) -> Trained:
    """The newest checkpoint of the run in `folder`. Raises UserError where there is none."""
    run, config = RunFolder.open(folder)
    model, process = build(config)
    params = jax.eval_shape(lambda key: init_params(model, config, key), jax.random.key(0))
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        wanted = {"step": jax.ShapeDtypeStruct((), jnp.int32), "ema_params": params}
        state, _ = checkpoints.restore(wanted)
        return Trained(config, model, process, int(state["step"]), state["ema_params"])

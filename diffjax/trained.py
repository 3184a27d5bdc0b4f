"""A run as objects: its network and process, and the weights it has reached."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import diffjax.models
import diffjax.schedules
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.classifier import Classifier
from diffjax.models.stateful import merge_state, split_state
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


@dataclasses.dataclass(frozen=True)
class Judge:
    """What a run of experiments.classifier has learnt: EMA weights at `step`."""

    config: RunConfig
    model: nn.Module
    step: int
    params: Params


def build(config: RunConfig) -> tuple[nn.Module, Process]:
    """The network and the process that a config describes. Raises UserError for a judge."""
    if config.schedule is None or config.target is None:
        raise UserError(
            f"a run of experiments.{config.experiment} draws nothing: pass one of ddpm's"
        )
    model = spec.build(config.model, diffjax.models)
    if isinstance(model, Classifier):
        raise UserError(f"--model={config.model} judges images and draws none: pass a backbone")
    schedule = spec.build(config.schedule, diffjax.schedules)
    process = Process(
        schedule,
        config.target,
        sigma_data=config.sigma_data,
        learned_variance=config.learned_variance,
        consistent=config.consistent,
    )
    return model, process


def null_label(config: RunConfig, model: nn.Module) -> int | None:
    """The label that stands for no class, the one after the last; None where the run has none."""
    classes = config.num_classes
    if classes is None:
        return None
    if getattr(model, "one_hot", False):  # it needs no embedding for it
        return classes if config.cond_drop else None
    return classes if getattr(model, "num_class_embeds", None) == classes + 1 else None


def init_params(model: nn.Module, config: RunConfig, key: Any) -> Params:
    """Fresh parameters, a learnt schedule's too; of the key alone, fit for jit and eval_shape."""
    x = jnp.zeros((1, *config.image_shape))
    labels = () if config.num_classes is None else (jnp.zeros((1,), jnp.int32),)
    params = model.init(key, x, jnp.zeros((1,)), *labels)["params"]
    schedule = spec.build(str(config.schedule), diffjax.schedules)
    learnt = schedule.init(jax.random.fold_in(key, 0))
    return params if learnt is None else {**params, "schedule": learnt}


def load(folder: str | os.PathLike[str]) -> Trained:
    """The newest checkpoint of the run in `folder`. Raises UserError where there is none."""
    run, config = RunFolder.open(folder)
    model, process = build(config)
    step, params = newest(run, lambda key: init_params(model, config, key))
    return Trained(config, model, process, step, params)


def build_judge(config: RunConfig) -> nn.Module:
    """The classifier that a config describes. Raises UserError for a config of another kind."""
    if config.experiment != "classifier":
        raise UserError(
            f"a run of experiments.{config.experiment} judges nothing: pass one of classifier's"
        )
    return spec.build(config.model, diffjax.models)


def init_judge_params(model: nn.Module, config: RunConfig, key: Any) -> Params:
    """As `init_params`, of a classifier."""
    return model.init(key, jnp.zeros((1, *config.image_shape)))["params"]


def load_judge(folder: str | os.PathLike[str]) -> Judge:
    """As `load`, of a run of experiments.classifier."""
    run, config = RunFolder.open(folder)
    model = build_judge(config)
    step, params = newest(run, lambda key: init_judge_params(model, config, key))
    return Judge(config, model, step, params)


def check_fit(trained: Trained, judge: Judge) -> None:
    """Raises UserError for a judge of other images, or of other classes where the run has some."""
    shapes = trained.config.image_shape, judge.config.image_shape
    if shapes[0] != shapes[1]:
        drawn, known = ("x".join(map(str, shape)) for shape in shapes)
        raise UserError(
            f"the run draws images of {drawn} and the judge knows {known}: "
            "train a judge with the run's --dataset and --image_size"
        )
    classes = trained.config.num_classes, judge.config.num_classes
    if classes[0] not in (None, classes[1]):
        raise UserError(
            f"the run has {classes[0]} classes and the judge {classes[1]}: "
            "train a judge with the run's --dataset"
        )


def newest(run: RunFolder, init: Callable[[Any], Params]) -> tuple[int, Params]:
    """Step and EMA weights of the newest sound checkpoint, of the shapes that `init` makes.

    The weights are merged with the model state, as samplers and evaluation take them.
    """
    params, model_state = split_state(jax.eval_shape(init, jax.random.key(0)))
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        step = jax.ShapeDtypeStruct((), jnp.int32)
        wanted = {"step": step, "ema_params": params, "model_state": model_state}
        state, _ = checkpoints.restore(wanted)
        return int(state["step"]), merge_state(state["ema_params"], state["model_state"])

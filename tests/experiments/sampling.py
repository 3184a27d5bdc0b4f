"""Runs that nothing was trained for, and experiments.sample many times in one process."""

import pathlib

import jax
import numpy as np
from programs import calls
from upscalers import doubling

import diffjax.models
from diffjax import spec
from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.interop import load_tokenizer
from diffjax.models.stateful import split_state
from diffjax.runs import RunConfig, Training
from diffjax.schedules.cosine import Cosine
from diffjax.tasks.base import Task, shapes
from diffjax.tasks.classifier import Classification
from diffjax.tasks.contrastive import Contrastive
from diffjax.tasks.diffusion import Diffusion
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.run import RunFolder

UNET = (
    "unet(in_channels=1,out_channels=1,block_out_channels=(8,),layers_per_block=1,"
    "norm_num_groups=4,mid_block_type=None,down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',))"
)
JUDGE = "classifier(stem=8,channels=(8,),num_features=8)"
SMALL = "hidden_size=8,intermediate_size=8,num_hidden_layers=1,num_attention_heads=2"
TOWERS = (
    f"clip_vision({SMALL},patch_size=4)",
    f"clip_text({SMALL},max_position_embeddings=12)",
)
TRAINING = Training()


def untrained(
    folder: pathlib.Path, *, classes: int | None = None, null: bool = False, size: int = 8,
    seed: int = 0, target: str = "v", channels: int = 1, training: Training = TRAINING,
    names: tuple[str, ...] = (),
) -> pathlib.Path:  # fmt: skip
    """A run folder of a tiny denoiser; null: it has a label for no class, and can be guided."""
    condition = Unconditional() if classes is None else Label(classes, drop=0.1 * null, names=names)
    model = spec.build(UNET.replace("channels=1", f"channels={channels}"), diffjax.models)
    task = Diffusion(
        model=model.conditioned_on(condition), image_shape=(size, size, channels),
        schedule=Cosine(), target=target, condition=condition,
    )  # fmt: skip
    return write_run(folder, task, seed, training)


def untrained_upscaler(folder: pathlib.Path, channels: int = 1) -> pathlib.Path:
    """A run folder of a tiny network that draws 8x8 of 4x4."""
    return write_run(folder, doubling(8, channels))


def untrained_judge(folder: pathlib.Path, *, classes: int = 3, size: int = 8) -> pathlib.Path:
    """A run folder of a tiny classifier."""
    model = spec.build(JUDGE, diffjax.models, {"num_classes": classes})
    return write_run(folder, Classification(model=model, image_shape=(size, size, 1)))


def untrained_clip(folder: pathlib.Path, *, channels: int = 3, seed: int = 0) -> pathlib.Path:
    """A run folder of two tiny towers, for images of 8x8."""
    options = {"image_size": 8, "num_channels": channels, "vocab_size": load_tokenizer().end + 1}
    vision, text = (spec.build(tower, diffjax.models, options) for tower in TOWERS)
    task = Contrastive(vision=vision, text=text, image_shape=(8, 8, channels), dim=8)
    return write_run(folder, task, seed)


def write_run(
    folder: pathlib.Path, task: Task, seed: int = 0, training: Training = TRAINING
) -> pathlib.Path:
    """A run folder of a task with random weights, also where it would begin with zeros."""
    rng = np.random.default_rng(seed)
    params, model_state = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
        split_state(shapes(task, {})),
    )
    config = RunConfig(task, training)
    state = {"step": np.int32(1), "ema_params": params, "model_state": model_state}
    with (
        RunFolder.create(folder, config.to_dict(), "") as run,
        Checkpoints(run.checkpoints) as checkpoints,
    ):
        checkpoints.save(1, state, {})
    return folder


def sample_each(*each: tuple[str, ...], devices: int = 1) -> list[str]:
    """The line that python -m experiments.sample says to each list of flags."""
    lines = [said.strip() for said in calls("sample", *each, devices=devices)]
    assert not any("\n" in line for line in lines), lines
    return lines

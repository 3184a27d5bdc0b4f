"""A run as a folder that diffusers' DiffusionPipeline.from_pretrained reads."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffjax import spec
from diffjax.conditions.base import Condition
from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.conditions.tokens import Tokens
from diffjax.errors import UserError
from diffjax.files import write_folder, write_text
from diffjax.interop import (
    save_autoencoder_kl,
    save_clip,
    save_dit,
    save_tokenizer,
    save_unet2d,
    save_unet2d_condition,
    save_vq_model,
)
from diffjax.interop.schedulers import scheduler_config
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.models.clip import CLIP
from diffjax.models.clip_text import CLIPText
from diffjax.models.dit import DiT
from diffjax.models.unet import UNet
from diffjax.models.unet_condition import ConditionalUNet
from diffjax.models.vq import VQModel
from diffjax.process import Process
from diffjax.runs import Run
from diffjax.spaces.latents import Latents
from diffjax.spaces.pixels import Pixels
from diffjax.tasks.denoisers import AUTOENCODER, DENOISER, DenoiserTask
from diffjax.tasks.towers import CLIP_TOWERS, Towers
from diffjax.typing import Params

MODEL_INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
NO_CLASS = 1000  # the label that DiTPipeline takes for none
NETWORKS: dict[type[nn.Module], tuple[str, Callable[..., None]]] = {
    UNet: ("UNet2DModel", save_unet2d),
    DiT: ("DiTTransformer2DModel", save_dit),
    ConditionalUNet: ("UNet2DConditionModel", save_unet2d_condition),
}
STAGES: dict[type[nn.Module], tuple[str, Callable[..., None]]] = {
    AutoencoderKL: ("AutoencoderKL", save_autoencoder_kl),
    VQModel: ("VQModel", save_vq_model),
}


class Pipeline(NamedTuple):
    """A class of diffusers, and what it calls its network and its first stage, if it has one."""

    name: str
    network: str
    stage: str | None = None


# By whether there are classes, and whether x0 are latents. ConsistencyModelPipeline is the one that
# tells a network labels and draws pixels; it takes any scheduler.
PIPELINES = {
    (False, False): Pipeline("DDPMPipeline", "unet"),
    (True, False): Pipeline("ConsistencyModelPipeline", "unet"),
    (False, True): Pipeline("LDMPipeline", "unet", "vqvae"),
    (True, True): Pipeline("DiTPipeline", "transformer", "vae"),
}
FROM_TEXTS = Pipeline("StableDiffusionPipeline", "unet", "vae")
# What it may have beside its models, and does without.
LEFT_OUT = ("feature_extractor", "image_encoder", "safety_checker")


class Saved(NamedTuple):
    """A part of a pipeline: its class, the library that has it, and what writes it to a folder."""

    kind: str
    save: Callable[[Path], None]
    library: str = "diffusers"


def save_pipeline(run: Run[Any], folder: str | os.PathLike[str]) -> str:
    """Writes a denoiser's run to `folder`, which must not exist; the pipeline's class in diffusers.

    From the same x, pipe(num_inference_steps=N) draws what run.sample(steps=N) draws, where N
    divides the training steps; pipelines that know classes take class_labels, and one that knows
    texts takes prompts. Where training hid classes in latents, the labels between the last class
    and 1000 stand for none, so that guidance_scale is guidance. The folder is there whole or not at
    all. Raises UserError, naming it, for what diffusers cannot hold, and for a folder that exists
    or cannot be written.
    """
    path = Path(folder).expanduser()
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists: choose another folder", option="out")
    task = run.task
    if not isinstance(task, DenoiserTask):
        raise UserError(f"a {task.name} run is no pipeline of diffusers: give one that denoises")
    pipeline = _pipeline(task)
    parts = {pipeline.network: _network(run, pipeline)}
    if pipeline.stage is not None:
        parts[pipeline.stage] = _stage(run)
    if pipeline is FROM_TEXTS:
        parts |= _text_parts(run)
    scheduler = scheduler_config(_process(run, pipeline), task.space.limit)
    try:
        write_folder(path, functools.partial(_write, pipeline, task, parts, scheduler))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", option="out") from error
    return pipeline.name


def _pipeline(task: DenoiserTask) -> Pipeline:
    """Raises UserError for a network, a condition or a space that no pipeline has."""
    condition = task.condition
    if not isinstance(condition, Label | Unconditional) and not _is_prompt(condition):
        raise UserError(
            f"no pipeline of diffusers tells a network {spec.render(condition)}: only classes, and "
            "texts' tokens with their padding"
        )
    if not isinstance(task.space, Latents | Pixels):
        raise UserError(f"no pipeline of diffusers draws in space {spec.render(task.space)}")
    if _is_prompt(condition):
        if not task.space.needs_autoencoder:
            raise UserError("diffusers draws from texts in latents alone")
        return FROM_TEXTS
    pipeline = PIPELINES[condition.classes is not None, task.space.needs_autoencoder]
    if isinstance(task.model, DiT) and pipeline.network != "transformer":
        raise UserError("diffusers draws with a dit of classes and in latents alone")
    return pipeline


def _is_prompt(condition: Condition) -> bool:
    """Whether it is what Stable Diffusion is told."""
    return isinstance(condition, Tokens) and condition.padded


def _process(run: Run[Any], pipeline: Pipeline) -> Process:
    """The run's, with the schedule that it has learnt; what the pipeline does itself left out."""
    process = run.task.process.bind(run[DENOISER].params)
    if process.learned_variance and pipeline.network == "transformer":
        return dataclasses.replace(process, learned_variance=False)
    if process.learned_variance and run.task.shape[-1] != 3:
        raise UserError(
            f"diffusers knows a learnt variance of 3 channels, not of {run.task.shape[-1]}"
        )
    return process


def _network(run: Run[Any], pipeline: Pipeline) -> Saved:
    """The denoiser, of the size of the run's images or latents."""
    task, model = run.task, run[DENOISER].model
    if type(model) not in NETWORKS:
        name = type(model).__module__.rpartition(".")[2]
        raise UserError(f"diffusers has no {name}: it has unet, dit and unet_condition")
    kind, save = NETWORKS[type(model)]
    height, width, channels = task.shape
    if height != width and pipeline.name != "DDPMPipeline":
        raise UserError(f"{pipeline.name} draws squares, and x0 here is {height}x{width}")
    size = height if height == width else (height, width)
    model = model.clone(sample_size=size, out_channels=model.out_channels or channels)
    params = {name: tree for name, tree in run[DENOISER].params.items() if name != "schedule"}
    if pipeline.network == "transformer" and task.condition.drop:
        model, params = _with_no_class(model, params, task.condition.classes)
    return Saved(kind, functools.partial(save, model, params))


def _with_no_class(model: Any, params: Params, classes: int) -> tuple[Any, Params]:
    """The network with as many classes as make NO_CLASS the null one, the new ones null too."""
    if classes > NO_CLASS:
        raise UserError(f"DiTPipeline takes label {NO_CLASS} for none, and here it is a class")

    def longer(path: Any, leaf: Any) -> Any:
        if not {"class_embedding", "class_embedder"} & {key.key for key in path}:
            return leaf
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], NO_CLASS - classes, 0)])

    field, rows = "num_embeds_ada_norm", NO_CLASS
    if isinstance(model, UNet):
        field, rows = "num_class_embeds", NO_CLASS + 1
    return model.clone(**{field: rows}), jax.tree_util.tree_map_with_path(longer, params)


def _stage(run: Run[Any]) -> Saved:
    """The first stage, which says how its latents are scaled."""
    model, params = run[AUTOENCODER].model, run[AUTOENCODER].params
    if type(model) not in STAGES:
        name = type(model).__module__.rpartition(".")[2]
        raise UserError(f"diffusers has no first stage {name}: it has autoencoder_kl and vq")
    kind, save = STAGES[type(model)]
    scale, shift = run.task.space.scale_factor, run.task.space.shift_factor
    if shift:
        if not isinstance(model, AutoencoderKL):
            raise UserError(f"no pipeline of diffusers shifts the latents of codes: {shift}")
        model, params = _centred(model, params, shift)
    return Saved(kind, functools.partial(save, model.clone(scaling_factor=scale), params))


def _centred(model: AutoencoderKL, params: Params, shift: float) -> tuple[AutoencoderKL, Params]:
    """The autoencoder whose latents are less by `shift`, which no pipeline adds by itself.

    Its convolutions of one pixel after the encoder and before the decoder have it in their biases.
    """
    channels = model.latent_channels
    after = params.get("quant_conv", _identity(2 * channels))
    before = params.get("post_quant_conv", _identity(channels))
    less = jnp.where(jnp.arange(2 * channels) < channels, shift, 0.0)  # of the mean alone
    more = shift * before["kernel"].sum((0, 1, 2))
    model = model.clone(use_quant_conv=True, use_post_quant_conv=True, shift_factor=None)
    return model, {
        **params,
        "quant_conv": {**after, "bias": after["bias"] - less},
        "post_quant_conv": {**before, "bias": before["bias"] + more},
    }


def _identity(channels: int) -> Params:
    """A convolution of one pixel that changes nothing."""
    return {"kernel": jnp.eye(channels)[None, None], "bias": jnp.zeros(channels)}


def _text_parts(run: Run[Any]) -> dict[str, Saved]:
    """The text tower of the run's CLIP, and its tokenizer."""
    towers = cast(Towers, run[CLIP_TOWERS])
    tower = towers.model.text_model
    if not isinstance(tower, CLIPText):
        name = type(tower).__module__.rpartition(".")[2]
        raise UserError(f"StableDiffusionPipeline has no text tower {name}: it has clip_text")
    params = {"text_model": towers.params["text_model"]}
    model = CLIP(None, tower, None)
    return {
        "text_encoder": Saved(
            "CLIPTextModel", functools.partial(save_clip, model, params), "transformers"
        ),
        "tokenizer": Saved(
            "CLIPTokenizer", functools.partial(save_tokenizer, towers.tokenizer), "transformers"
        ),
    }


def _write(
    pipeline: Pipeline,
    task: DenoiserTask,
    parts: Mapping[str, Saved],
    scheduler: Mapping[str, Any],
    folder: Path,
) -> None:
    for name, part in parts.items():
        part.save(folder / name)
    path = folder / SCHEDULER
    path.parent.mkdir()
    write_text(path, _json(scheduler))
    index: dict[str, Any] = {"_class_name": pipeline.name}
    index |= {name: [part.library, part.kind] for name, part in parts.items()}
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    if pipeline.network == "transformer" and task.condition.names:
        index["id2label"] = dict(enumerate(task.condition.names))
    if pipeline is FROM_TEXTS:
        index |= {name: [None, None] for name in LEFT_OUT} | {"requires_safety_checker": False}
    write_text(folder / MODEL_INDEX, _json(index))


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"

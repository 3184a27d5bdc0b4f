"""U-Nets in the form that diffusers' UNet2DModel saves and loads: config.json and weights."""

import json
import os
import re
import warnings
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.interop.safetensors import encode, read, read_json, write
from diffjax.interop.torch_names import LEAVES, check_names, transpose
from diffjax.models.unet import UNet
from diffjax.typing import Params

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
CLASS = "UNet2DModel"
DTYPE = "_diffjax_dtype"  # an option of ours; diffusers passes over names that begin with _
# The options of UNet2DModel: ours without how it is computed and what Linen adds.
OPTIONS = {field.name for field in fields(UNet)} - {"dtype", "remat", "parent", "name"}
# Where torch counts modules in a list, Linen counts in the name.
LISTS = "down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|to_out"
# What diffusers' first releases called the layers of attention.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Slot(NamedTuple):
    """Where one of torch's tensors belongs in our tree, and the shape it has there."""

    path: tuple[str, ...]
    shape: tuple[int, ...]


def load_unet2d(folder: str | os.PathLike[str]) -> tuple[UNet, Params]:
    """The U-Net saved in `folder`, and its float32 parameters for `model.apply({"params": ...})`.

    An option that is not UNet's is passed over, with a warning, where it is false or null. Raises
    UserError, naming it, for what is missing, damaged, unknown, of the wrong shape, or an
    option that UNet does not support.
    """
    folder = Path(folder).expanduser()
    if not (folder / CONFIG).is_file() and (folder / "unet" / CONFIG).is_file():
        raise UserError(f"{folder} is a whole pipeline: load {folder / 'unet'}")
    model = _read_config(folder / CONFIG)
    path = _weights(folder)
    tensors = {_new_name(name): value for name, value in read(path).items()}
    slots = _slots(model)
    check_names(str(path), tensors, slots, "U-Net")
    tree = {}
    for name, (where, shape) in slots.items():
        value = transpose(tensors[name], where[-1])
        if value.shape != shape:
            raise UserError(f"{path}: {name} has shape {tensors[name].shape}, which does not fit")
        tree[where] = jnp.asarray(value)
    return model, traverse_util.unflatten_dict(tree)


def _weights(folder: Path) -> Path:
    """The file of the weights: that of a variant, such as fp16, where there is no other."""
    path = folder / WEIGHTS
    if list(folder.glob(f"{WEIGHTS}*")):
        return path
    variants = sorted(folder.glob(f"{path.stem}.*{path.suffix}"))
    if len(variants) > 1:
        names = ", ".join(variant.name for variant in variants)
        raise UserError(f"no {path}, and several variants ({names}): rename one to {WEIGHTS}")
    if not variants and path.with_suffix(".bin").is_file():
        raise UserError(
            f"{path.with_suffix('.bin')} is a Python pickle, which can run code: "
            "save the model again with safe_serialization=True"
        )
    return variants[0] if variants else path


def save_unet2d(model: UNet, params: Params, folder: str | os.PathLike[str]) -> None:
    """Writes `model` and `params` to `folder`, for UNet2DModel.from_pretrained and load_unet2d.

    Files of the same names are replaced, each whole or not at all. Raises UserError for params that
    are not this model's, a folder that cannot be written, and one with weights in several files.
    """
    folder = Path(folder).expanduser()
    if (folder / f"{WEIGHTS}.index.json").exists():
        raise UserError(f"{folder} holds a model in several files: choose another folder")
    flat = traverse_util.flatten_dict(params)
    given = {_torch_name(path): np.asarray(value, np.float32) for path, value in flat.items()}
    slots = _slots(model)
    check_names("params", given, slots, "U-Net")
    for name, (where, shape) in slots.items():
        if given[name].shape != shape:
            raise UserError(f"params: {'/'.join(where)} has {given[name].shape}, not {shape}")
        given[name] = transpose(given[name], where[-1], back=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    write(folder / WEIGHTS, encode(given))
    options = {name: getattr(model, name) for name in sorted(OPTIONS)}
    config = {"_class_name": CLASS, DTYPE: model.dtype, **options}
    write(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def _read_config(path: Path) -> UNet:
    config = read_json(path)
    if config.get("_class_name") != CLASS:
        raise UserError(f"{path} is of a {config.get('_class_name')}, not a {CLASS}")
    options = {name: value for name, value in config.items() if not name.startswith("_")}
    for name in sorted(options.keys() - OPTIONS):
        # Later releases write options that are off, or not given, as false or null.
        off = options.pop(name)
        if off is not None and off is not False:
            raise UserError(f"{path}: {CLASS} has no option {name!r}: remove it")
        warnings.warn(f"{path}: passing over option {name!r}, which is off", stacklevel=3)
    options["dtype"] = config.get(DTYPE, "float32")
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    try:
        model: UNet = spec.build(f"unet({text})", diffjax.models)
    except UserError as error:
        raise UserError(f"{path}: {error}", error.option) from error
    return model


def _slots(model: UNet) -> dict[str, Slot]:
    """Every parameter of the model, by the name that torch knows it by."""
    size = 2 ** (len(model.block_out_channels) - 1)
    shape = jax.ShapeDtypeStruct
    labels = None
    if model.class_embed_type == "identity":
        width = model.time_embedding_dim or 4 * model.block_out_channels[0]
        labels = shape((1, width), jnp.float32)
    elif model.class_embed_type is not None or model.num_class_embeds is not None:
        labels = shape((1,), jnp.int32)
    images = shape((1, size, size, model.in_channels), jnp.float32)
    tree = jax.eval_shape(model.init, jax.random.key(0), images, shape((), jnp.float32), labels)
    flat = traverse_util.flatten_dict(tree["params"])
    return {_torch_name(path): Slot(path, leaf.shape) for path, leaf in flat.items()}


def _torch_name(path: tuple[str, ...]) -> str:
    """down_blocks_0/resnets_1/conv1/kernel → down_blocks.0.resnets.1.conv1.weight."""
    modules = [re.sub(rf"^({LISTS})_(\d+)$", r"\1.\2", name) for name in path[:-1]]
    return ".".join([*modules, LEAVES.get(path[-1], path[-1])])


def _new_name(name: str) -> str:
    old = "|".join(OLD_NAMES)
    pattern = rf"(?<=attentions\.)(\d+)\.({old})(?=\.)"
    return re.sub(pattern, lambda match: f"{match[1]}.{OLD_NAMES[match[2]]}", name)

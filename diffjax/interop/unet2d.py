"""U-Nets in the form that diffusers' UNet2DModel saves and loads: config.json and weights."""

import os
import re
import warnings
from dataclasses import fields
from pathlib import Path

import jax
import jax.numpy as jnp

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.interop.folders import CONFIG, weights_file, write_model
from diffjax.interop.safetensors import read, read_json
from diffjax.interop.torch_names import Slot, slots, to_tensors, to_tree
from diffjax.models.unet import UNet
from diffjax.typing import Params

WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASS = "UNet2DModel"
DTYPE = "_diffjax_dtype"  # an option of ours; diffusers passes over names that begin with _
# The options of UNet2DModel: ours without how it is computed and what Linen adds.
OPTIONS = {field.name for field in fields(UNet)} - {"dtype", "remat", "parent", "name"}
# Where torch counts modules in a list, Linen counts in the name.
LISTS = "down_blocks|up_blocks|resnets|attentions|downsamplers|upsamplers|to_out"
# What diffusers' first releases called the layers of attention.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


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
    path = weights_file(folder, WEIGHTS)
    tensors = {_new_name(name): value for name, value in read(path).items()}
    return model, to_tree(str(path), tensors, _slots(model), "U-Net")


def save_unet2d(model: UNet, params: Params, folder: str | os.PathLike[str]) -> None:
    """Writes `model` and `params` to `folder`, for UNet2DModel.from_pretrained and load_unet2d.

    Files of the same names are replaced, each whole or not at all. Raises UserError for params that
    are not this model's, a folder that cannot be written, and one with weights in several files.
    """
    given = to_tensors(params, _slots(model), LISTS, "U-Net")
    options = {name: getattr(model, name) for name in sorted(OPTIONS)}
    config = {"_class_name": CLASS, DTYPE: model.dtype, **options}
    write_model(Path(folder).expanduser(), WEIGHTS, given, config)


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
    return slots(tree["params"], LISTS)


def _new_name(name: str) -> str:
    old = "|".join(OLD_NAMES)
    pattern = rf"(?<=attentions\.)(\d+)\.({old})(?=\.)"
    return re.sub(pattern, lambda match: f"{match[1]}.{OLD_NAMES[match[2]]}", name)

"""U-Nets in the form that diffusers' UNet2DModel saves and loads: config.json and weights."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.errors import UserError
from diffjax.interop.diffusers_folder import Form, load, save
from diffjax.models.unet import UNet
from diffjax.models.unet_levels import embedding_width
from diffjax.typing import Params


def load_unet2d(folder: str | os.PathLike[str]) -> tuple[UNet, Params]:
    """The U-Net saved in `folder`, and its float32 parameters for `model.apply({"params": ...})`.

    An option that is not UNet's is passed over, with a warning, where it is false or null. Raises
    UserError, naming it, for what is missing, damaged, unknown, of the wrong shape, or an
    option that UNet does not support.
    """
    return load(folder, FORM)


def save_unet2d(model: UNet, params: Params, folder: str | os.PathLike[str]) -> None:
    """Writes `model` and `params` to `folder`, for UNet2DModel.from_pretrained and load_unet2d.

    Files of the same names are replaced, each whole or not at all. Raises UserError for params that
    are not this model's, a folder that cannot be written, and one with weights in several files,
    and for a network with `cond_dim` or `spans`, which UNet2DModel lacks.
    """
    if model.cond_dim is not None:
        raise UserError(
            f"a unet(cond_dim={model.cond_dim}) cannot be saved: diffusers' UNet2DModel takes no "
            "vectors"
        )
    if model.spans:
        raise UserError("a unet(spans=True) cannot be saved: diffusers' UNet2DModel has no spans")
    save(model, params, folder, FORM)


def _inputs(model: UNet) -> tuple[Any, ...]:
    """The shapes of an image, a time and a condition."""
    size = 2 ** (len(model.block_out_channels) - 1)
    shape = jax.ShapeDtypeStruct
    labels = None
    if model.class_embed_type == "identity":
        labels = shape((1, embedding_width(model)), jnp.float32)
    elif model.class_embed_type is not None or model.num_class_embeds is not None:
        labels = shape((1,), jnp.int32)
    images = shape((1, size, size, model.in_channels), jnp.float32)
    return images, shape((), jnp.float32), labels


FORM = Form("UNet2DModel", "U-Net", UNet, _inputs, ours=frozenset({"spans"}))

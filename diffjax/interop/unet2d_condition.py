"""U-Nets in the form of diffusers' UNet2DConditionModel, such as Stable Diffusion's."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.interop.diffusers_folder import Form, load, save
from diffjax.models.unet_condition import ConditionalUNet
from diffjax.models.unet_condition_checks import taken_by
from diffjax.models.unet_condition_levels import token_widths
from diffjax.models.unet_levels import embedding_width
from diffjax.typing import Params

# Options of UNet2DConditionModel that have one value here.
FIXED = {
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "num_attention_heads": None,  # attention_head_dim is the number of heads
    "dual_cross_attention": False,
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}


def load_unet2d_condition(folder: str | os.PathLike[str]) -> tuple[ConditionalUNet, Params]:
    """The U-Net saved in `folder`, and its float32 parameters for `model.apply({"params": ...})`.

    Raises UserError, naming it, for what is missing, damaged, unknown, of the wrong shape, or an
    option that ConditionalUNet does not support.
    """
    return load(folder, FORM)


def save_unet2d_condition(
    model: ConditionalUNet, params: Params, folder: str | os.PathLike[str]
) -> None:
    """Writes `model` and `params` to `folder`, for UNet2DConditionModel.from_pretrained.

    Files of the same names are replaced, each whole or not at all. Raises UserError for params that
    are not this model's, a folder that cannot be written, and one with weights in several files.
    """
    save(model, params, folder, FORM)


def _inputs(model: ConditionalUNet) -> tuple[Any, ...]:
    """The shapes of latents, a time and a condition, of one sample with one token."""
    size = 2 ** (len(model.block_out_channels) - 1)
    latents = jax.ShapeDtypeStruct((1, size, size, model.in_channels), jnp.float32)
    (width,) = token_widths(model)
    projected = model.projection_class_embeddings_input_dim or 0
    shapes: dict[str, tuple[int, ...]] = {
        "tokens": (1, 1, width),
        "class_labels": {
            "identity": (1, embedding_width(model)),
            "projection": (1, projected),
        }.get(model.class_embed_type or "", (1,)),
        "text_embeds": (1, projected - (model.addition_time_embed_dim or 0)),
        "time_ids": (1, 1),
    }
    cond = {name: jax.ShapeDtypeStruct(shapes[name], jnp.float32) for name in taken_by(model)}
    if model.num_class_embeds is not None:
        cond["class_labels"] = jax.ShapeDtypeStruct((1,), jnp.int32)
    return latents, jax.ShapeDtypeStruct((), jnp.float32), cond


FORM = Form("UNet2DConditionModel", "U-Net", ConditionalUNet, _inputs, FIXED)

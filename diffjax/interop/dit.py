"""Diffusion transformers in the form of diffusers' DiTTransformer2DModel, such as DiT-XL/2."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.errors import UserError
from diffjax.interop.diffusers_folder import Form, load, save
from diffjax.models.dit import DiT
from diffjax.typing import Params

# Options that have one value here; Transformer2DModel has more than DiTTransformer2DModel.
FIXED = {
    "norm_type": "ada_norm_zero",
    "attention_type": "default",
    "caption_channels": None,
    "cross_attention_dim": None,
    "double_self_attention": False,
    "interpolation_scale": None,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_additional_conditions": None,
    "use_linear_projection": False,
}


def load_dit(folder: str | os.PathLike[str]) -> tuple[DiT, Params]:
    """The transformer saved in `folder`, and its float32 parameters.

    They are for `model.apply({"params": ...})`. Old folders, which name a Transformer2DModel, are
    read too. Raises UserError, naming it, for what is missing, damaged, unknown, of the wrong
    shape, or an option that DiT does not support.
    """
    return load(folder, FORM)


def save_dit(model: DiT, params: Params, folder: str | os.PathLike[str]) -> None:
    """Writes `model` and `params` to `folder`, for DiTTransformer2DModel.from_pretrained.

    Files of the same names are replaced, each whole or not at all. Raises UserError for params that
    are not this model's, a folder that cannot be written, and one with weights in several files,
    and for what DiTTransformer2DModel lacks: a network without classes or with a bottleneck, and a
    height that is not the width.
    """
    for name, lacks in (
        ("num_embeds_ada_norm", model.num_embeds_ada_norm is None),
        ("bottleneck_dim", model.bottleneck_dim is not None),
        ("sample_size", isinstance(model.sample_size, tuple)),
    ):
        if lacks:
            raise UserError(
                f"a dit({name}={getattr(model, name)}) cannot be saved: diffusers' "
                "DiTTransformer2DModel takes classes and square images, and has no bottleneck"
            )
    save(model, params, folder, FORM)


def _inputs(model: DiT) -> tuple[Any, ...]:
    """The shapes of one image of one patch, a time and a label."""
    shape = jax.ShapeDtypeStruct
    images = shape((1, model.patch_size, model.patch_size, model.in_channels), jnp.float32)
    labels = None if model.num_embeds_ada_norm is None else shape((1,), jnp.int32)
    return images, shape((), jnp.float32), labels


FORM = Form(
    "DiTTransformer2DModel", "DiT", DiT, _inputs, FIXED, "transformer", ("Transformer2DModel",)
)

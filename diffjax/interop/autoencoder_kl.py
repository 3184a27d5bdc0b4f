"""First stages in the form that diffusers' AutoencoderKL saves and loads."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.errors import UserError
from diffjax.interop.diffusers_folder import Form, load, save
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.typing import Params


def load_autoencoder_kl(folder: str | os.PathLike[str]) -> tuple[AutoencoderKL, Params]:
    """The autoencoder saved in `folder`, and its float32 parameters for `model.apply`.

    `model.apply({"params": params}, images, method="encode")` encodes. Raises UserError, naming it,
    for what is missing, damaged, unknown, of the wrong shape, or an option that AutoencoderKL does
    not support.
    """
    return load(folder, FORM)


def save_autoencoder_kl(
    model: AutoencoderKL, params: Params, folder: str | os.PathLike[str]
) -> None:
    """Writes `model` and `params` to `folder`, for diffusers' AutoencoderKL.from_pretrained.

    Files of the same names are replaced, each whole or not at all. Raises UserError for params that
    are not this model's, a model with patches, a folder that cannot be written, and a folder with
    weights in several files.
    """
    if model.patch_size != 1:
        raise UserError(
            f"an autoencoder_kl(patch_size={model.patch_size}) cannot be saved: diffusers' "
            "AutoencoderKL has no patches"
        )
    save(model, params, folder, FORM)


def _inputs(model: AutoencoderKL) -> tuple[Any, ...]:
    """The shape of an image."""
    shape = (1, model.factor, model.factor, model.in_channels)
    return (jax.ShapeDtypeStruct(shape, jnp.float32),)


FORM = Form(
    "AutoencoderKL",
    "autoencoder",
    AutoencoderKL,
    _inputs,
    subfolder="vae",
    ours=frozenset({"patch_size"}),
)

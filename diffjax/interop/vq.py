"""First stages of discrete latents in the form that diffusers' VQModel saves and loads."""

import os
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.errors import UserError
from diffjax.interop.diffusers_folder import Form, load, save
from diffjax.models.quantisers.ema import AveragedQuantiser
from diffjax.models.quantisers.vq import VectorQuantiser
from diffjax.models.stateful import split_state
from diffjax.models.vq import VQModel, built_quantiser
from diffjax.typing import Params


def load_vq_model(folder: str | os.PathLike[str]) -> tuple[VQModel, Params]:
    """The VQModel saved in `folder`, and its float32 parameters for `model.apply`.

    Its losses are weighted as the paper weighs them; diffusers' own weigh as the quantiser
    "vq(legacy=True)" does. Raises UserError, naming it, for what is missing, damaged, unknown, of
    the wrong shape, or an option that VQModel does not support.
    """
    return load(folder, FORM)


def save_vq_model(model: VQModel, params: Params, folder: str | os.PathLike[str]) -> None:
    """Writes `model` and `params` to `folder`, for diffusers' VQModel.from_pretrained.

    A codebook of moving averages is written as the codes that it stands for. Files of the same
    names are replaced, each whole or not at all. Raises UserError for a quantiser without a
    codebook, params that are not this model's, a folder that cannot be written, and one with
    weights in several files.
    """
    quantiser = built_quantiser(model)
    if isinstance(quantiser, AveragedQuantiser):
        model, params = _with_plain_codes(model, params)
    elif not isinstance(quantiser, VectorQuantiser):
        raise UserError(
            f"a vq(quantiser={model.quantiser!r}) cannot be saved: diffusers' VQModel chooses the "
            "nearest code of a codebook"
        )
    save(model, params, folder, FORM)


def _with_plain_codes(model: VQModel, params: Params) -> tuple[VQModel, Params]:
    trained, state = split_state(params)
    if not state:
        raise UserError("params have no codebook: give the trained parameters with the model state")
    every = jnp.arange(model.num_vq_embeddings)
    codes = model.apply({"params": params}, every, method="look_up")
    return model.clone(quantiser="vq"), {**trained, "quantize": {"embedding": {"embedding": codes}}}


def _inputs(model: VQModel) -> tuple[Any, ...]:
    """The shape of an image."""
    shape = (1, model.factor, model.factor, model.in_channels)
    return (jax.ShapeDtypeStruct(shape, jnp.float32),)


FORM = Form("VQModel", "autoencoder", VQModel, _inputs, subfolder="vqvae")

"""A folder in diffusers' layout, read into a pipeline."""

import os
from pathlib import Path

from diffjax.errors import UserError, listed
from diffjax.interop import clip, diffusers_folder
from diffjax.interop.autoencoder_kl import load_autoencoder_kl
from diffjax.interop.folders import weights_file
from diffjax.interop.safetensors import entries
from diffjax.interop.schedulers import scheduler_from_config
from diffjax.interop.unet2d_condition import FORM
from diffjax.models.layers import machine_dtype
from diffjax.models.unet_condition import ConditionalUNet
from diffjax.models.unet_condition_checks import taken_by
from diffjax.models.unet_condition_levels import token_widths
from diffjax.pipelines.contents import Contents, contents_of
from diffjax.pipelines.placement import Placement, fits_whole
from diffjax.pipelines.prompts import Prompts, load_encoder
from diffjax.pipelines.stable_diffusion import StableDiffusion
from diffjax.pipelines.stage import FirstStage

DTYPES = ("float32", "bfloat16")
BYTES = {"float32": 4, "bfloat16": 2}
STAGE_DTYPE = "float32"  # in which a first stage is small, and loses no detail

# Options that diffusers' StableDiffusionPipeline sets, whatever an old folder says; XL's does not.
SET = {"steps_offset": 1, "clip_sample": False}


def load_pipeline(
    folder: str | os.PathLike[str], *, dtype: str | None = None, cut: bool | None = None
) -> StableDiffusion:
    """The pipeline in a folder that diffusers saved: Stable Diffusion 1, 2 or XL.

    Weights are read from safetensors in 32 or 16 bits, of a variant where there are no others.
    dtype: what the U-Net and the text encoders are held and computed in, float32 or bfloat16; by
    default float32 on a CPU and bfloat16 elsewhere. cut: whether the U-Net's parameters are cut
    among the devices; by default where they do not fit one.

    Warns of a safety checker, which is not run. Raises UserError, before weights are read, for a
    part that is missing, unknown or not supported, a folder of another pipeline, weights that are
    pickles, and too little memory; and as the parts' own loaders do.
    """
    path = Path(folder).expanduser()
    if dtype not in (None, *DTYPES):
        raise UserError(f"dtype={dtype!r}: choose {' or '.join(DTYPES)}", "dtype")
    contents, dtype = contents_of(path), machine_dtype(dtype)
    is_xl = len(contents.encoders) > 1
    scheduler = scheduler_from_config(path / "scheduler", **({} if is_xl else SET))
    whole = fits_whole(_bytes(contents, dtype), "unet")
    cut = not whole if cut is None else cut
    unet, params = diffusers_folder.load(path / "unet", FORM, Placement(dtype, cut).put)
    stage = FirstStage(*load_autoencoder_kl(path / "vae"))
    encoders = [
        load_encoder(path / name, contents.tokenizer(name), dtype, skipped=is_xl)
        for name in contents.encoders
    ]
    prompts = Prompts(tuple(encoders), contents.zeros)
    _check_fit(path, unet, stage, prompts)
    return StableDiffusion(unet.clone(dtype=dtype), params, stage, prompts, scheduler, cut)


def _bytes(contents: Contents, dtype: str) -> dict[str, int]:
    """What the weights of each part take, by the headers of their files."""
    found = {}
    for name in contents.networks:
        encodes = name in contents.encoders
        file = clip.WEIGHTS if encodes else diffusers_folder.WEIGHTS
        unused = clip.UNUSED if encodes else ""
        tensors = entries(weights_file(contents.folder / name, file), unused).values()
        held = STAGE_DTYPE if name == "vae" else dtype
        found[name] = BYTES[held] * sum(tensor.size for tensor in tensors)
    return found


def _check_fit(path: Path, unet: ConditionalUNet, stage: FirstStage, prompts: Prompts) -> None:
    """Raises UserError for parts that were not made for each other."""
    channels, (width,) = stage.model.latent_channels, token_widths(unet)
    sizes = {"text_embeds", "time_ids"} if prompts.pools else set()
    if taken_by(unet) != {"tokens"} | sizes:
        raise UserError(
            f"{path / 'unet'} is conditioned on {listed(sorted(taken_by(unet)))}, which this "
            "pipeline does not give"
        )
    if width != prompts.width:
        raise UserError(
            f"{path}: the text encoders' states have {prompts.width} numbers, and the U-Net takes "
            f"{width}: they are of two pipelines"
        )
    if unet.in_channels not in (channels, 2 * channels + 1) or unet.out_channels != channels:
        raise UserError(
            f"{path / 'unet'} has in_channels={unet.in_channels} and out_channels="
            f"{unet.out_channels}: for latents of {channels} channels {channels} or, to paint, "
            f"{2 * channels + 1} in and {channels} out are supported"
        )
    for name in ("latents_mean", "latents_std"):
        if getattr(stage.model, name) is not None:
            raise UserError(f"{path / 'vae'}: {name} is not supported")

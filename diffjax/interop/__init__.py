"""Weights to and from other libraries, without their code; CLIP's tokenizer and preprocessing."""

from diffjax.interop.autoencoder_kl import load_autoencoder_kl, save_autoencoder_kl
from diffjax.interop.clip import load_clip, save_clip
from diffjax.interop.clip_tokenizer import load_tokenizer, save_tokenizer
from diffjax.interop.dit import load_dit, save_dit
from diffjax.interop.image_processor import load_image_processor
from diffjax.interop.schedulers import scheduler_from_config
from diffjax.interop.unet2d import load_unet2d, save_unet2d
from diffjax.interop.unet2d_condition import load_unet2d_condition, save_unet2d_condition
from diffjax.interop.vq import load_vq_model, save_vq_model

__all__ = [
    "load_autoencoder_kl",
    "load_clip",
    "load_dit",
    "load_image_processor",
    "load_tokenizer",
    "load_unet2d",
    "load_unet2d_condition",
    "load_vq_model",
    "save_autoencoder_kl",
    "save_clip",
    "save_dit",
    "save_tokenizer",
    "save_unet2d",
    "save_unet2d_condition",
    "save_vq_model",
    "scheduler_from_config",
]

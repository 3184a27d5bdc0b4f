"""Weights to and from other libraries, without their code; CLIP's tokenizer and preprocessing."""

from typing import TYPE_CHECKING

from diffjax import lazy

if TYPE_CHECKING:
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

_MODULES = {
    "load_autoencoder_kl": "autoencoder_kl",
    "load_clip": "clip",
    "load_dit": "dit",
    "load_image_processor": "image_processor",
    "load_tokenizer": "clip_tokenizer",
    "load_unet2d": "unet2d",
    "load_unet2d_condition": "unet2d_condition",
    "load_vq_model": "vq",
    "save_autoencoder_kl": "autoencoder_kl",
    "save_clip": "clip",
    "save_dit": "dit",
    "save_tokenizer": "clip_tokenizer",
    "save_unet2d": "unet2d",
    "save_unet2d_condition": "unet2d_condition",
    "save_vq_model": "vq",
    "scheduler_from_config": "schedulers",
}
__getattr__, __dir__ = lazy.parts(__name__, _MODULES)

"""Weights to and from other libraries, by their names and without their code."""

from diffjax.interop.unet2d import load_unet2d, save_unet2d

__all__ = ["load_unet2d", "save_unet2d"]

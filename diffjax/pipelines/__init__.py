"""Whole pipelines of diffusers as one object: texts to images."""

from diffjax.pipelines.loading import load_pipeline
from diffjax.pipelines.stable_diffusion import StableDiffusion

__all__ = ["StableDiffusion", "load_pipeline"]

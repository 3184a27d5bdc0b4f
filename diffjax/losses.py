"""Losses to train on, under short names: each makes a (params, keys, batch) -> (loss, metrics)."""

from diffjax.objectives.adversarial import adversarial_loss as adversarial
from diffjax.objectives.autoencoding import autoencoding_loss as autoencoding
from diffjax.objectives.classification import classification_loss as classification
from diffjax.objectives.consistency import consistency_loss as consistency
from diffjax.objectives.denoising import denoising_loss as denoising
from diffjax.objectives.progressive import progressive_loss as progressive
from diffjax.objectives.reconstruction import reconstruction_loss as reconstruction
from diffjax.objectives.segmentation import segmentation_loss as segmentation
from diffjax.objectives.variational import continuous_vlb_loss as continuous_vlb
from diffjax.objectives.variational import hybrid_loss as hybrid
from diffjax.objectives.variational import vlb_loss as vlb

__all__ = [
    "adversarial",
    "autoencoding",
    "classification",
    "consistency",
    "continuous_vlb",
    "denoising",
    "hybrid",
    "progressive",
    "reconstruction",
    "segmentation",
    "vlb",
]

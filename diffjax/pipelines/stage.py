"""A pipeline's first stage: images to the latents in which the U-Net works, and back."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.batches import in_batches
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.spaces.base import Latent
from diffjax.spaces.latents import Latents
from diffjax.tasks.denoisers import centring, decoding
from diffjax.typing import Images, Params


@dataclasses.dataclass(frozen=True)
class FirstStage:
    """An autoencoder with its weights. One image is computed at a time, as memory is short."""

    model: AutoencoderKL
    params: Params

    @property
    def space(self) -> Latents:
        """The scale of the latents."""
        scale, shift = self.model.scaling_factor, self.model.shift_factor or 0.0
        return Latents(self.model.latent_channels, self.model.factor, float(scale), float(shift))

    def x0(self, images: Float[np.ndarray, "N H W k"]) -> Latent:
        """The latents of images in [-1, 1], with nothing drawn."""
        encode = centring(self.space, self.model)
        made = in_batches(lambda rows: encode(self.params, jnp.asarray(rows)), images, 1)
        return jnp.asarray(made)

    def images(self, x0: Float[np.ndarray, "N h w k"]) -> Images:
        """Images in [-1, 1]."""
        decode = decoding(self.space, self.model)
        made = in_batches(lambda rows: decode(self.params, jnp.asarray(rows)), x0, 1)
        return jnp.clip(made, -1, 1)

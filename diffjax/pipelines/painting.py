"""A U-Net that was trained to paint: it is shown what is kept of an image."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from diffjax.models.unet_condition import ConditionalUNet
from diffjax.typing import Images, Times

SHOWN = "shown"  # the name in a condition


class Painting(nn.Module):
    """A U-Net of latents, one channel of 1 where is painted, and latents of what is kept.

    That is Stable Diffusion Inpainting's input (Rombach et al. 2022, code). The latter two are
    `shown` in the condition.
    """

    unet: ConditionalUNet

    def __call__(self, x: Images, t: Times, cond: Mapping[str, Array]) -> Float[Array, "B H W D"]:
        """The U-Net's output for latents x at the times t."""
        told = {name: value for name, value in cond.items() if name != SHOWN}
        output: Array = self.unet(jnp.concatenate([x, cond[SHOWN]], axis=-1), t, told)
        return output

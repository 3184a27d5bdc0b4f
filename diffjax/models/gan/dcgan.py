"""A generator and a discriminator of strided convolutions (Radford et al. 2016)."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from diffjax.errors import UserError
from diffjax.models.gan.spectral_norm import normalised
from diffjax.models.gan.strided import Halved
from diffjax.models.layers import GroupNorm
from diffjax.models.level_checks import check_reach, check_widths
from diffjax.models.upsampling import WAYS, Transposed, Way
from diffjax.typing import Images

__all__ = ["DCGAN"]

SLOPE = 0.2  # of the leaky ReLUs (Radford et al. 2016, sec. 3)
he = nn.initializers.he_normal()
UPSAMPLING: dict[Way, Callable[..., nn.Module]] = {
    **WAYS,
    "transposed": partial(Transposed, kernel=4),
}


class DCGAN(nn.Module):
    """Latents to images, and images to how real they look: a logit.

    Each of `channels` is a level of the generator, which doubles height and width; those of the
    discriminator are the same in reverse. The paper's batch normalisation is on neither side, so
    that an image depends on its own latent alone and nothing is carried from step to step. In the
    generator group normalisation takes its place; scaling each pixel's features to unit mean square
    (Karras et al. 2018) instead was slower to learn. `spectral_norm` is the discriminator's.
    """

    sample_size: int | None = None
    image_channels: int = 1
    latent: int = 64
    channels: tuple[int, ...] = (128, 64)
    norm_num_groups: int = 8
    upsample: Way = "transposed"
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        positive = ("sample_size", "image_channels", "latent", "norm_num_groups")
        check_widths("dcgan", self, positive)
        check_reach("dcgan", self, "doubles {} times and cannot end at")
        super().__post_init__()

    def setup(self) -> None:
        if self.sample_size is None:
            raise UserError("dcgan needs a sample_size, the height and width of its images")
        size = self.sample_size >> len(self.channels)
        self.generator = Generator(
            size, self.image_channels, self.channels, self.norm_num_groups, self.upsample
        )
        self.discriminator = Discriminator(self.channels[::-1], self.spectral_norm)

    def __call__(self, latents: Float[Array, "B L"]) -> Float[Array, "B"]:
        """Both, one after the other: what `init` needs, so that it makes all parameters."""
        return self.discriminate(self.generate(latents))

    def generate(self, latents: Float[Array, "B L"]) -> Images:
        """Images in (-1, 1) of unit normal latents."""
        return self.generator(latents)

    def discriminate(self, images: Images) -> Float[Array, "B"]:
        """A logit an image, the larger the more real."""
        return self.discriminator(images)


class Generator(nn.Module):
    """From `size` x `size` up: the last level's convolution gives the image."""

    size: int
    image_channels: int
    channels: tuple[int, ...]
    norm_num_groups: int
    upsample: Way

    @nn.compact
    def __call__(self, latents: Float[Array, "B L"]) -> Images:
        first, *others = self.channels
        x = nn.Dense(self.size**2 * first, kernel_init=he, name="project")(latents)
        x = x.reshape(len(x), self.size, self.size, first)
        for i, channels in enumerate((*others, self.image_channels)):
            x = nn.leaky_relu(GroupNorm(self.norm_num_groups, name=f"norm_{i}")(x), SLOPE)
            x = UPSAMPLING[self.upsample](channels, name=f"up_{i}")(x)
        return jnp.tanh(x)


class Discriminator(nn.Module):
    """Halves height and width at each level, then weighs all that is left."""

    channels: tuple[int, ...]
    spectral_norm: bool

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "B"]:
        halved, dense = (
            normalised(layer, self) if self.spectral_norm else layer for layer in (Halved, nn.Dense)
        )
        x = images
        for i, channels in enumerate(self.channels):
            x = nn.leaky_relu(halved(channels, name=f"down_{i}")(x), SLOPE)
        return dense(1, name="logit")(x.reshape(len(x), -1))[:, 0]

"""A small variational autoencoder: images to a few numbers and back (Kingma & Welling 2014)."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.models.layers import Conv3x3, GroupNorm, Resized, repeat_pixels
from diffjax.models.level_checks import check_reach, check_widths
from diffjax.typing import Images

__all__ = ["VAE"]

he = nn.initializers.he_normal()  # keeps the variance through ReLUs (He et al. 2015, eq. 10)
Latents = Float[Array, "B 1 1 L"]


class VAE(nn.Module):
    """Images of one size to `latent_channels` numbers with a diagonal Gaussian, and back.

    Each of `channels` is a level, of half the height and width before (Kingma & Welling 2014,
    appendix C, with convolutions). Latents are maps of one pixel, so that diffusion takes them as
    it takes any. Raises UserError for sizes that the levels do not divide.
    """

    sample_size: int | None = None
    in_channels: int = 1
    latent_channels: int = 2
    channels: tuple[int, ...] = (32, 64)
    norm_num_groups: int = 8

    def __post_init__(self) -> None:
        positive = ("sample_size", "in_channels", "latent_channels", "norm_num_groups")
        check_widths("vae", self, positive)
        check_reach("vae", self, "halves {} times and cannot begin at")
        super().__post_init__()

    def setup(self) -> None:
        if self.sample_size is None:
            raise UserError("vae needs a sample_size, the height and width of its images")
        self.encoder = Encoder(self.channels, 2 * self.latent_channels, self.norm_num_groups)
        size = self.sample_size >> len(self.channels)
        self.decoder = Decoder(size, self.channels[::-1], self.in_channels, self.norm_num_groups)

    def __call__(self, images: Images) -> Images:
        """Both, one after the other: what `init` needs, so that it makes all parameters."""
        return self.decode(self.encode(images)[0])

    def encode(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log-variance. Raises UserError for images of another size."""
        size = self.sample_size
        if images.shape[1:3] != (size, size):
            height, width = images.shape[1:3]
            raise UserError(
                f"the first stage takes images of {size}x{size}, and these have {height}x{width}: "
                f"resize them to {size}",
                option="image_size",
            )
        mean, log_variance = jnp.split(self.encoder(images)[:, None, None], 2, axis=-1)
        return mean, jnp.clip(log_variance, -30, 20)

    def decode(self, z: Latents) -> Images:
        """The mean of images, about in [-1, 1]."""
        return self.decoder(z[:, 0, 0])


class Encoder(nn.Module):
    """Halves height and width at each level; the last layer sees all that is left."""

    channels: tuple[int, ...]
    out: int
    groups: int

    @nn.compact
    def __call__(self, x: Images) -> Float[Array, "B M"]:
        for i, channels in enumerate(self.channels):
            x = Conv3x3(channels, strides=2, kernel_init=he, name=f"down_{i}")(x)
            x = nn.silu(GroupNorm(self.groups, name=f"norm_{i}")(x))
        h = nn.silu(nn.Dense(4 * self.channels[-1], name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(self.out, name="moments")(h)


class Decoder(nn.Module):
    """Doubles height and width at each level, from `size` pixels; the last layer is linear."""

    size: int
    channels: tuple[int, ...]
    out: int
    groups: int

    @nn.compact
    def __call__(self, z: Float[Array, "B L"]) -> Resized:
        h = nn.silu(nn.Dense(4 * self.channels[0], name="hidden")(z))
        x = nn.Dense(self.size**2 * self.channels[0], kernel_init=he, name="project")(h)
        x = x.reshape(len(z), self.size, self.size, -1)
        for i, channels in enumerate(self.channels):
            x = nn.silu(GroupNorm(self.groups, name=f"norm_{i}")(x))
            x = Conv3x3(channels, kernel_init=he, name=f"up_{i}")(repeat_pixels(x))
        return Conv3x3(self.out, name="conv_out")(nn.silu(x))

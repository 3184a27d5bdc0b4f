"""The first stage of latent diffusion, block for block that of diffusers' published weights."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from diffjax.errors import UserError
from diffjax.models.autoencoder_layers import (
    DOWN,
    EPS,
    UP,
    Decoder,
    Encoder,
    decoder_levels,
    encoder_levels,
    middle_level,
)
from diffjax.models.layers import (
    ACTIVATIONS,
    Attention,
    Conv1x1,
    Resized,
    ResnetBlock,
    machine_dtype,
    patched,
    unpatched,
)
from diffjax.models.unet_checks import (
    check_choices,
    check_images,
    check_lengths,
    check_level,
    check_positive,
)
from diffjax.typing import Images

__all__ = ["AutoencoderKL"]

CHOICES: dict[str, tuple[str | None, ...]] = {"dtype": (None, "float32", "bfloat16", "float16")}
POSITIVE = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "norm_num_groups",
    "sample_size",
    "scaling_factor",
    "latents_std",
    "patch_size",
)
LOG_VARIANCE = (-30.0, 20.0)  # its bounds: exp overflows float32 beyond 88


class AutoencoderKL(nn.Module):
    """Images to the normal distribution of their latents, and latents to images.

    An autoencoder with a KL term to a standard normal (Rombach et al. 2022, sec. 3.1 and app. G).
    Fields are those of diffusers' AutoencoderKL, defaults included. `sample_size`,
    `scaling_factor`, `shift_factor`, `latents_mean` and `latents_std` are notes: latents here are
    unscaled, and `spaces.Latents` scales them. `patch_size`, which diffusers lacks, is the side of
    the squares of pixels that become the channels of one place before the first layer, and pixels
    again after the last: maps of few places and many channels are faster on a CPU. `dtype` is what
    is computed in, None float32 where `force_upcast` is set and else what the machine is built for;
    parameters and outputs are float32. Raises UserError for an option or a combination that cannot
    be built.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] = 32
    scaling_factor: float | int = 0.18215
    shift_factor: float | int | None = None
    latents_mean: tuple[float | int, ...] | None = None
    latents_std: tuple[float | int, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    patch_size: int = 1
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_lengths(self)
        check_choices(self, {"down_block_types": DOWN, "up_block_types": UP}, CHOICES)
        check_positive(self, POSITIVE)
        for level in (*encoder_levels(self), middle_level(self), *decoder_levels(self)):
            check_level(self, level)
        super().__post_init__()

    def setup(self) -> None:
        dtype, activation = self.compute_dtype, ACTIVATIONS[self.act_fn.lower()]
        resnet = partial(ResnetBlock, eps=EPS, activation=activation, dtype=dtype)
        attention = partial(Attention, eps=EPS, dtype=dtype)
        middle, moments = middle_level(self), 2 * self.latent_channels
        self.encoder = Encoder(encoder_levels(self), middle, moments, resnet, attention)
        out = self.out_channels * self.patch_size**2
        self.decoder = Decoder(decoder_levels(self), middle, out, resnet, attention)
        if self.use_quant_conv:
            self.quant_conv = Conv1x1(moments, dtype=dtype)
        if self.use_post_quant_conv:
            self.post_quant_conv = Conv1x1(self.latent_channels, dtype=dtype)

    def __call__(self, images: Images) -> Float[Array, "B H W D"]:
        """Images in [-1, 1] through the mean of their latents and back."""
        return self.decode(self.encode(images)[0])

    def encode(self, images: Images) -> tuple[Resized, Resized]:
        """The mean and the log-variance in [-30, 20] of unscaled latents, from images in [-1, 1].

        Raises UserError for images whose channels are not the network's, or whose height or width
        is not a multiple of `factor`.
        """
        check_images(self, images, "autoencoder", self.patch_size)
        moments = self.encoder(patched(images, self.patch_size).astype(self.compute_dtype))
        if self.use_quant_conv:
            moments = self.quant_conv(moments)
        return split_moments(moments)

    def decode(self, z: Resized) -> Images:
        """Images, about in [-1, 1], of unscaled latents. Raises UserError for other channels."""
        check_latents(self, z)
        z = z.astype(self.compute_dtype)
        if self.use_post_quant_conv:
            z = self.post_quant_conv(z)
        return unpatched(self.decoder(z).astype(jnp.float32), self.patch_size)

    @property
    def factor(self) -> int:
        """How many times the latents' height and width images have."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

    @property
    def compute_dtype(self) -> str:
        """What is computed in on this machine."""
        return "float32" if self.dtype is None and self.force_upcast else machine_dtype(self.dtype)


def split_moments(moments: Images) -> tuple[Resized, Resized]:
    """The mean and the bounded log-variance, from maps of twice the latents' channels."""
    mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE)


def check_latents(net: AutoencoderKL, z: Images | Float[np.ndarray, "B H W C"]) -> None:
    """Refuses latents of other channels."""
    if z.shape[-1] != net.latent_channels:
        raise UserError(
            f"latents have {z.shape[-1]} channels, the autoencoder decodes {net.latent_channels}: "
            f"set latent_channels={z.shape[-1]}"
        )

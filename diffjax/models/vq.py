"""A first stage of discrete latents, block for block the one whose weights diffusers publishes."""

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

import diffjax.models.quantisers
from diffjax import spec
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
)
from diffjax.models.quantisers.base import Losses, Quantised, Quantiser
from diffjax.models.stateful import Stateful
from diffjax.models.unet_checks import (
    check_choices,
    check_images,
    check_lengths,
    check_level,
    check_positive,
)
from diffjax.typing import Images, Keys

__all__ = ["VQModel"]

CHOICES: dict[str, tuple[str | None, ...]] = {
    "norm_type": ("group",),
    "dtype": (None, "float32", "bfloat16", "float16"),
}
POSITIVE = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "latent_channels",
    "sample_size",
    "num_vq_embeddings",
    "norm_num_groups",
    "vq_embed_dim",
    "scaling_factor",
)
LOG_VARIANCE = -30.0  # the least of diffusers' posteriors: a deviation of 3e-7


class Reconstruction(NamedTuple):
    """Images that went through the codes, the codes' indices, and the quantiser's losses."""

    images: Images
    indices: Int[Array, "B h w"]
    losses: Losses


class VQModel(Stateful):
    """Images to latents of finitely many codes, and back (van den Oord et al. 2017; VQGAN).

    Fields are those of diffusers' VQModel, defaults included. `sample_size`, `scaling_factor` and
    `force_upcast` are notes: latents here are unscaled, and `spaces.Latents` scales them.
    `norm_type` is "group" alone. With `lookup_from_codebook` what `decode` is told not to quantise
    are indices. `quantiser`, which diffusers lacks, is a spec of diffjax.models.quantisers, such as
    "ema(decay=0.99, revive_below=0.1)". It has `num_vq_embeddings` codes of `vq_embed_dim`
    channels, None for as many as latent_channels. `dtype` is what the encoder and the decoder are
    computed in, None what the machine is built for; parameters, latents, codes and images are
    float32. Raises UserError for an option or a combination that cannot be built.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 3
    sample_size: int = 32
    num_vq_embeddings: int = 256
    norm_num_groups: int = 32
    vq_embed_dim: int | None = None
    scaling_factor: float | int = 0.18215
    norm_type: str = "group"
    mid_block_add_attention: bool = True
    lookup_from_codebook: bool = False
    force_upcast: bool = False
    quantiser: str = "vq"
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_lengths(self)
        check_choices(self, {"down_block_types": DOWN, "up_block_types": UP}, CHOICES)
        check_positive(self, POSITIVE)
        for level in (*encoder_levels(self), middle_level(self), *decoder_levels(self)):
            check_level(self, level)
        _check_codes(self, built_quantiser(self))
        super().__post_init__()

    def setup(self) -> None:
        dtype, middle = self.compute_dtype, middle_level(self)
        activation = ACTIVATIONS[self.act_fn.lower()]
        parts = (
            partial(ResnetBlock, eps=EPS, activation=activation, dtype=dtype),
            partial(Attention, eps=EPS, dtype=dtype),
        )
        self.encoder = Encoder(encoder_levels(self), middle, self.latent_channels, *parts)
        self.decoder = Decoder(decoder_levels(self), middle, self.out_channels, *parts)
        self.quant_conv = Conv1x1(self.code_dim, dtype=dtype)
        self.post_quant_conv = Conv1x1(self.latent_channels, dtype=dtype)
        self.quantize = built_quantiser(self)

    def __call__(
        self, images: Images, *, train: bool = False, keys: Keys | None = None
    ) -> Reconstruction:
        """Images in [-1, 1] through their codes and back, as training needs them.

        The loss of training adds sum(losses) to a distance of the images. `keys`, one per sample,
        are for a quantiser that draws in training. Raises UserError as `encode` does.
        """
        found = self.quantise(self.encode(images)[0], train=train, keys=keys)
        return Reconstruction(self._decoded(found.codes), found.indices, found.losses)

    def encode(self, images: Images) -> tuple[Resized, Resized]:
        """Unscaled latents that are not yet quantised, and a log-variance of -30, as a posterior.

        Raises UserError for images whose channels are not the network's, or whose height or width
        is not a multiple of `factor`.
        """
        check_images(self, images, "autoencoder")
        z = self.quant_conv(self.encoder(images.astype(self.compute_dtype))).astype(jnp.float32)
        return z, jnp.full_like(z, LOG_VARIANCE)

    def quantise(self, z: Images, *, train: bool = False, keys: Keys | None = None) -> Quantised:
        """The codes of unscaled latents, their indices, and the losses, whose sum is added."""
        _check_latents(self, z)
        return self.quantize(z.astype(jnp.float32), train=train, keys=keys)

    def look_up(self, indices: Int[Array, "*n"]) -> Array:
        """The codes of indices from 0 to num_vq_embeddings - 1."""
        return self.quantize.look_up(indices)

    def decode(
        self, z: Images | Int[Array, "B _ _"], *, force_not_quantize: bool = False
    ) -> Resized:
        """Images, about in [-1, 1], of the codes of unscaled latents.

        With `force_not_quantize`, as diffusers calls it, `z` are the codes themselves, or their
        indices where the network has `lookup_from_codebook`. Raises UserError for other channels.
        """
        if not force_not_quantize:
            return self._decoded(self.quantise(z).codes)
        codes = self.look_up(z) if self.lookup_from_codebook else z
        _check_latents(self, codes)
        return self._decoded(codes)

    def _decoded(self, codes: Images) -> Resized:
        z = self.post_quant_conv(codes.astype(self.compute_dtype))
        return self.decoder(z).astype(jnp.float32)

    @property
    def factor(self) -> int:
        """How many times the latents' height and width images have."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def code_dim(self) -> int:
        """The channels of latents and codes."""
        return self.latent_channels if self.vq_embed_dim is None else self.vq_embed_dim

    @property
    def compute_dtype(self) -> str:
        """What the encoder and the decoder are computed in on this machine."""
        return machine_dtype(self.dtype)


def built_quantiser(net: VQModel) -> Quantiser:
    """The quantiser of the spec, with the network's number of codes and of their channels."""
    sizes = {"num_codes": net.num_vq_embeddings, "code_dim": net.code_dim}
    quantiser: Quantiser = spec.build(net.quantiser, diffjax.models.quantisers, sizes)
    return quantiser


def _check_codes(net: VQModel, quantiser: Quantiser) -> None:
    """Refuses a quantiser of another number of codes or channels than the network's fields say."""
    sizes: tuple[tuple[str, Any, int], ...] = (
        ("num_vq_embeddings", net.num_vq_embeddings, quantiser.size),
        ("vq_embed_dim", net.code_dim, quantiser.dim),
    )
    for option, given, wanted in sizes:
        if given != wanted:
            raise UserError(
                f"vq({option}={given}): its quantiser {net.quantiser} has {wanted}: "
                f"set {option}={wanted}"
            )


def _check_latents(net: VQModel, z: Array) -> None:
    """Refuses latents of other channels."""
    if z.shape[-1] != net.code_dim:
        raise UserError(
            f"latents have {z.shape[-1]} channels, the codes have {net.code_dim}: "
            f"set vq_embed_dim={z.shape[-1]}"
        )

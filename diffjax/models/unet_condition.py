"""The U-Net of latent diffusion, told a text's tokens: Stable Diffusion 1, 2 and XL."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float

from diffjax.conditions.base import Condition, Mask
from diffjax.conditions.tokens import Sequences, Tokens
from diffjax.errors import UserError
from diffjax.models.backbone import Backbone, check_mask
from diffjax.models.layers import (
    ACTIVATIONS,
    Conv3x3,
    Embedding,
    GroupNorm,
    TimeMLP,
    look_up,
    machine_dtype,
    sinusoids,
    zeros,
)
from diffjax.models.spatial_transformer import SpatialTransformer
from diffjax.models.unet_blocks import Part, residual_part, run_levels
from diffjax.models.unet_condition_checks import check_input, check_options, taken_by
from diffjax.models.unet_condition_levels import levels_of, token_widths
from diffjax.models.unet_levels import embedding_width
from diffjax.typing import Images, Times

__all__ = ["ConditionalUNet"]

CLIP_LENGTH = 77  # tokens of a text as CLIP encodes it; the network takes any number


class ConditionalUNet(Backbone):
    """Noisy latents, a time and tokens to an output of the latents' shape (Rombach et al. 2022).

    Fields are those of diffusers' UNet2DConditionModel, defaults included. `attention_head_dim` is
    the number of heads, as there. `sample_size` is a note, and so is `upcast_attention`: logits
    and softmax are always in float32. `dtype` and `remat` are as UNet's. Raises UserError for an
    option or a combination that cannot be built.
    """

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float | int = 1
    dropout: float | int = 0.0
    act_fn: str = "silu"
    norm_num_groups: int = 32
    norm_eps: float | int = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    reverse_transformer_layers_per_block: tuple[int | tuple[int, ...], ...] | None = None
    attention_head_dim: int | tuple[int, ...] = 8
    use_linear_projection: bool = False
    class_embed_type: str | None = None
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    num_class_embeds: int | None = None
    upcast_attention: bool | None = False
    resnet_time_scale_shift: str = "default"
    time_embedding_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Images,
        t: Times,
        cond: Mapping[str, Array] | Sequences | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B H W D"]:
        """The network's output for latents `x` at time(s) `t` in 0..999, dropout only in training.

        `cond` has `tokens` (B, L, cross_attention_dim), and may have `mask` (B, L), False where
        tokens are left out. With a class embedding it has `class_labels`: labels (B) below
        num_class_embeds (others give NaN), times (B) for class_embed_type "timestep", vectors
        (B, E) for "identity" and "projection". With addition_embed_type "text_time" it has
        `text_embeds` (B, P) and `time_ids` (B, S), sizes in pixels. Sequences stand for tokens and
        a mask. Raises UserError for latents or a condition that does not fit.
        """
        cond = _as_dict(cond)
        check_input(self, x, cond)
        dtype = self.compute_dtype
        t = jnp.atleast_1d(t).astype(jnp.float32)
        activation = ACTIVATIONS[self.act_fn.lower()]
        emb = activation(self._embed(t, cond))
        image = x = (2 * x - 1 if self.center_input_sample else x).astype(dtype)
        x = Conv3x3(self.block_out_channels[0], dtype=dtype, name="conv_in")(x)
        parts = residual_part(self, train), self._attention(cond["tokens"], cond.get("mask"))
        x, _ = run_levels(self, levels_of(self), parts, x, emb, image)
        norm = GroupNorm(self.norm_num_groups, self.norm_eps, dtype, name="conv_norm_out")
        x = activation(norm(x))
        x = Conv3x3(self.out_channels, dtype=dtype, kernel_init=zeros, name="conv_out")(x)
        return x.astype(jnp.float32)

    @nn.nowrap
    def takes(self, drop: float = 0.0, mask: Mask = "sample") -> Condition:
        check_mask(mask, drop, None)
        if others := sorted(taken_by(self) - {"tokens"}):
            raise UserError(
                f"this U-Net takes {', '.join(others)} beside tokens, and a run gives it one "
                "condition: choose a unet_condition without a class or an added embedding"
            )
        (width,) = token_widths(self)
        return Tokens(CLIP_LENGTH, width, drop=drop)

    @property
    def compute_dtype(self) -> str:
        """What is computed in on this machine."""
        return machine_dtype(self.dtype)

    def _attention(self, tokens: Float[Array, "B L E"], mask: Bool[Array, "B L"] | None) -> Part:
        """A block's attention, to the tokens too, with what is the same throughout the network."""
        transformer = nn.remat(SpatialTransformer) if self.remat else SpatialTransformer
        linear, dtype = self.use_linear_projection, self.compute_dtype

        def attention(**numbers: Any) -> Callable[[Images], Images]:
            attend = transformer(linear=linear, dtype=dtype, **numbers)
            return lambda x: attend(x, tokens, mask)

        return attention

    def _embed(self, t: Float[Array, " b"], cond: Mapping[str, Array]) -> Embedding:
        """The embedding of the time, plus those of a class and of text and sizes."""
        mlp = partial(TimeMLP, embedding_width(self), self.compute_dtype)
        activation = ACTIVATIONS[self.act_fn.lower()]
        features = self._sinusoids(t, self.block_out_channels[0])
        emb = mlp(activation, name="time_embedding")(features)
        if "class_labels" in cond:
            emb = emb + self._embed_class(cond["class_labels"]).astype(emb.dtype)
        if self.addition_embed_type is not None:
            sizes = self._sinusoids(cond["time_ids"].ravel(), self.addition_time_embed_dim or 0)
            added = [cond["text_embeds"], sizes.reshape(len(cond["time_ids"]), -1)]
            emb = emb + mlp(name="add_embedding")(jnp.concatenate(added, axis=-1))
        return emb

    def _embed_class(self, labels: Array) -> Float[Array, "B E"]:
        width = embedding_width(self)
        mlp = partial(TimeMLP, width, self.compute_dtype, name="class_embedding")
        match self.class_embed_type:
            case "identity":
                return labels
            case "projection":
                return mlp()(labels)
            case "timestep":
                features = self._sinusoids(labels, self.block_out_channels[0])
                return mlp(ACTIVATIONS[self.act_fn.lower()])(features)
        rows = self.num_class_embeds or 0  # above 0, or labels would not be here
        apart = nn.initializers.normal(1.0)  # as far as torch's start
        return look_up(nn.Embed(rows, width, embedding_init=apart, name="class_embedding"), labels)

    def _sinusoids(self, t: Array, width: int) -> Float[Array, "b F"]:
        return sinusoids(t, width, shift=self.freq_shift, cos_first=self.flip_sin_to_cos)


def _as_dict(cond: Mapping[str, Array] | Sequences | None) -> Mapping[str, Array]:
    """A run's tokens by the names that are used here."""
    if cond is None:
        raise UserError("this U-Net is conditioned on tokens: give cond")
    return {"tokens": cond.tokens, "mask": cond.mask} if isinstance(cond, Sequences) else cond

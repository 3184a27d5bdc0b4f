"""The U-Net of DDPM, ADM and NCSN++, block for block the one whose weights diffusers publishes."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from diffjax.conditions.base import Condition, Mask
from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.conditions.vector import Vector
from diffjax.errors import UserError
from diffjax.models.backbone import Backbone, check_mask
from diffjax.models.layers import (
    ACTIVATIONS,
    Attention,
    Conv3x3,
    Embedding,
    FourierFeatures,
    GroupNorm,
    TimeMLP,
    look_up,
    machine_dtype,
    sinusoids,
    zeros,
)
from diffjax.models.unet_blocks import Part, residual_part, run_levels
from diffjax.models.unet_checks import Labels, check_input, check_options
from diffjax.models.unet_levels import embedding_width, groups_of, levels_of
from diffjax.typing import Images, TimeInput, Times

__all__ = ["UNet"]


class UNet(Backbone):
    """Noisy images and a time to an image-shaped output (Ho et al. 2020, app. B; ADM; NCSN++).

    Fields are those of diffusers' UNet2DModel, defaults included. `attention_head_dim` None means
    one head; `sample_size` is a note. `dtype` is what is computed in, None what the machine is
    built for: bfloat16 on an accelerator, float32 on a CPU; parameters and output are float32.
    `cond_dim`, which diffusers lacks, is the length of a vector per sample, such as an embedding.
    `spans`, which it lacks too, is for networks of average velocity: how far a step leads, in the
    time's own unit, is embedded beside the time; no span is a step of no length.
    `remat` keeps no more than each block's input for the gradient and computes the rest again
    (Chen et al. 2016): less memory, more work; XLA on a CPU keeps it all the same. Raises UserError
    for an option or a combination that cannot be built.
    """

    in_channels: int = 3
    out_channels: int = 3
    sample_size: int | tuple[int, int] | None = None
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    down_block_types: tuple[str, ...] = ("DownBlock2D",) + ("AttnDownBlock2D",) * 3
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D",) * 3 + ("UpBlock2D",)
    mid_block_type: str | None = "UNetMidBlock2D"
    add_attention: bool = True
    attention_head_dim: int | None = 8
    dropout: float | int = 0.0
    act_fn: str = "silu"
    norm_num_groups: int | None = 32
    norm_eps: float | int = 1e-5
    attn_norm_num_groups: int | None = None
    resnet_time_scale_shift: str = "default"
    mid_block_scale_factor: float | int = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    num_train_timesteps: int | None = None
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    cond_dim: int | None = None
    spans: bool = False
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
        cond: Labels | None = None,
        *,
        span: Times | None = None,
        train: bool = False,
    ) -> Float[Array, "B H W D"]:
        """The network's output for images `x` at time(s) `t` in 0..999, dropout only in training.

        With time_embedding_type "fourier" `t` is a noise level, above 0. `cond` are labels below
        num_class_embeds (others give NaN), times for class_embed_type "timestep", embeddings for
        "identity", or vectors of cond_dim. Raises UserError for images or a condition that does not
        fit.
        """
        check_input(self, x, cond)
        if span is not None and not self.spans:
            raise UserError("this U-Net is told no span: set spans=True")
        t = jnp.atleast_1d(t).astype(jnp.float32)
        emb = self._embed(t, cond)
        if self.spans:
            emb = emb + self._embed_span(jnp.zeros(1) if span is None else span)
        emb = ACTIVATIONS[self.act_fn.lower()](emb)
        image = x = (2 * x - 1 if self.center_input_sample else x).astype(self.compute_dtype)
        x = Conv3x3(self.block_out_channels[0], dtype=self.compute_dtype, name="conv_in")(x)
        parts = residual_part(self, train), self._attention()
        x, drawn = run_levels(self, levels_of(self), parts, x, emb, image)
        x = nn.silu(self._norm_out(x))
        last = partial(Conv3x3, dtype=self.compute_dtype, kernel_init=zeros)
        x = last(self.out_channels, name="conv_out")(x).astype(jnp.float32)
        if drawn is not None:
            x = x + drawn
        return x / t[:, None, None, None] if self.time_embedding_type == "fourier" else x

    @property
    def time_input(self) -> TimeInput:
        return "sigma" if self.time_embedding_type == "fourier" else "index"

    @property
    def told_spans(self) -> bool:
        return self.spans

    @property
    def time_rows(self) -> int | None:
        return self.num_train_timesteps if self.time_embedding_type == "learned" else None

    @nn.nowrap
    def takes(self, drop: float = 0.0, mask: Mask = "sample") -> Condition:
        check_mask(mask, drop, self.cond_dim)
        if self.cond_dim is not None:
            return Vector(self.cond_dim, mask, drop=drop)
        if self.num_class_embeds is not None:
            return Label(self.num_class_embeds, drop=drop)
        match self.class_embed_type:
            case "identity":
                return Vector(embedding_width(self), drop=drop)
            case "timestep":
                raise UserError(
                    "unet(class_embed_type='timestep') takes a second time, which no data has: "
                    "choose num_class_embeds"
                )
        return Unconditional(drop=drop)

    @nn.nowrap
    def conditioned_on(self, condition: Condition) -> "UNet":
        if not isinstance(condition, Label):
            return self
        rows: int = condition.embeddings
        return self.clone(num_class_embeds=rows)

    @property
    def compute_dtype(self) -> str:
        """What is computed in on this machine."""
        return machine_dtype(self.dtype)

    def _attention(self) -> Part:
        """Attention with what is the same throughout the network."""
        attention = nn.remat(Attention) if self.remat else Attention
        return partial(attention, eps=self.norm_eps, dtype=self.compute_dtype)

    def _norm_out(self, x: Images) -> Images:
        groups = groups_of(self, self.block_out_channels[0])
        return GroupNorm(groups, self.norm_eps, self.compute_dtype, name="conv_norm_out")(x)

    def _embed(self, t: Float[Array, " b"], labels: Labels | None) -> Embedding:
        """The embedding of the time, plus that of the class or of the vector."""
        width = embedding_width(self)
        features = self._time_features()
        emb = TimeMLP(width, self.compute_dtype, name="time_embedding")(features(t))
        if labels is None:
            return emb
        if self.cond_dim is not None:
            return emb + TimeMLP(width, self.compute_dtype, name="cond_embedding")(labels)
        match self.class_embed_type:
            case "timestep":
                times = labels.astype(jnp.float32)
                of_class = TimeMLP(width, self.compute_dtype, name="class_embedding")(
                    features(times)
                )
            case "identity":
                of_class = labels
            case _:
                rows = self.num_class_embeds or 0  # above 0, or the labels would not be here
                # As far apart as torch's start: Linen's would drown in the time's.
                apart = nn.initializers.normal(1.0)
                table = nn.Embed(rows, width, embedding_init=apart, name="class_embedding")
                of_class = look_up(table, labels)
        return emb + of_class.astype(emb.dtype)

    def _embed_span(self, span: Times) -> Embedding:
        features = sinusoids(jnp.atleast_1d(span), self.block_out_channels[0])
        return TimeMLP(embedding_width(self), self.compute_dtype, name="span_embedding")(features)

    def _time_features(self) -> Callable[[Float[Array, " b"]], Float[Array, "b F"]]:
        width = self.block_out_channels[0]
        match self.time_embedding_type:
            case "fourier":
                return FourierFeatures(width, name="time_proj")
            case "learned":
                rows = self.num_train_timesteps or 0  # above 0, checked when built
                table = nn.Embed(rows, width, name="time_proj")
                # Before the first step, from index -1 at t = 0, its row serves.
                first = partial(jnp.maximum, 0)
                return lambda t: look_up(
                    table, jnp.round(jnp.where(t < -1, t, first(t))).astype(jnp.int32)
                )
        cos_first = self.flip_sin_to_cos
        return partial(sinusoids, width=width, shift=self.freq_shift, cos_first=cos_first)

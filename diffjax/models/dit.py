"""The diffusion transformer: an image's patches as tokens, told time and class by their norms.

Submodules carry the names that diffusers gives them.
"""

from functools import partial

import einops
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int, Num

from diffjax.conditions.base import Condition, Mask
from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.models.backbone import Backbone, check_mask
from diffjax.models.layers import (
    Conv,
    Dense,
    Embedding,
    TimeMLP,
    look_up,
    machine_dtype,
    sinusoids,
    zeros,
)
from diffjax.models.spatial_transformer import WIDENINGS, CrossAttention, FeedForward
from diffjax.typing import Images, Times

__all__ = ["DiT"]

TIME_FEATURES = 256
NORM_EPS = 1e-6  # of norm1 and norm_out; diffusers fixes it, whatever norm3 has
DTYPES = (None, "float32", "bfloat16", "float16")
POSITIVE = (
    "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "num_layers",
    "norm_num_groups", "sample_size", "patch_size", "num_embeds_ada_norm", "norm_eps",
    "bottleneck_dim",
)  # fmt: skip

Patches = Float[Array, "B T D"]
Labels = Int[Array, "B"]


class DiT(Backbone):
    """Noisy images or latents, a time and a class to an output of their size (Peebles & Xie 2023).

    Fields are those of diffusers' DiTTransformer2DModel, defaults included: DiT-XL/2 with
    out_channels=8, twice the latents' channels for a learnt variance. `norm_num_groups` is a note,
    and so is `upcast_attention`: logits and softmax are always in float32. num_embeds_ada_norm is
    the number of classes. The null class is the one after the last, always with a row of its own.
    num_embeds_ada_norm=None leaves the classes out.

    bottleneck_dim, which diffusers lacks, gives patches so many numbers before they become tokens,
    as JiT does (Li & He 2025). sample_size is the size at which patches are one apart in
    the table of positions; images of another size are stretched over the same range.
    activation_fn: gelu, gelu-approximate, or, gated, geglu and swiglu. `dtype` and `remat` are as
    UNet's. Raises UserError for an option or a combination that cannot be built.
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    in_channels: int = 4
    out_channels: int | None = None
    num_layers: int = 28
    dropout: float | int = 0.0
    norm_num_groups: int = 32
    attention_bias: bool = True
    sample_size: int | tuple[int, int] = 32
    patch_size: int = 2
    activation_fn: str = "gelu-approximate"
    num_embeds_ada_norm: int | None = 1000
    upcast_attention: bool = False
    norm_elementwise_affine: bool = False
    norm_eps: float | int = 1e-5
    bottleneck_dim: int | None = None
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Images, t: Times, cond: Num[Array, "B ..."] | None = None, *, train: bool = False
    ) -> Float[Array, "B H W O"]:
        """The network's output for `x` at time(s) `t` in 0..999, dropout only in training.

        `cond` are labels from 0 to num_embeds_ada_norm, the last one for no class; others give NaN.
        Raises UserError for images or a condition that does not fit.
        """
        _check_input(self, x, cond)
        rows, columns = x.shape[1] // self.patch_size, x.shape[2] // self.patch_size
        dtype, width = self.compute_dtype, self.width
        t = jnp.atleast_1d(t).astype(jnp.float32)
        embed = PatchEmbed(self.patch_size, width, self.bottleneck_dim, dtype, name="pos_embed")
        h = embed(x.astype(dtype)) + positions(rows, columns, self.base, width).astype(dtype)
        h, emb = self._block(0, train)(h, t, cond)
        for i in range(1, self.num_layers):
            h, _ = self._block(i, train)(h, t, cond)
        # The output is told what the first block is.
        told = Dense(2 * width, dtype=dtype, kernel_init=zeros, name="proj_out_1")(nn.silu(emb))
        shift, scale = jnp.split(told, 2, axis=-1)
        h = modulate(plain_norm(dtype)(h), shift, scale)
        channels = self.patch_size**2 * (self.out_channels or self.in_channels)
        h = Dense(channels, dtype=dtype, kernel_init=zeros, name="proj_out_2")(h)
        return unpatchify(h, rows, self.patch_size).astype(jnp.float32)

    @nn.nowrap
    def takes(self, drop: float = 0.0, mask: Mask = "sample") -> Condition:
        check_mask(mask, drop, None)
        if self.num_embeds_ada_norm is None:
            return Unconditional(drop=drop)
        return Label(self.num_embeds_ada_norm, drop=drop)

    @property
    def compute_dtype(self) -> str:
        """What is computed in on this machine."""
        return machine_dtype(self.dtype)

    @property
    def width(self) -> int:
        """The numbers of a token."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def base(self) -> tuple[int, int]:
        """Rows and columns of patches at which the table of positions counts by ones."""
        height, width = _sizes(self)
        return height // self.patch_size, width // self.patch_size

    def _block(self, index: int, train: bool) -> "Block":
        """A block with what is the same throughout the network."""
        block = nn.remat(Block) if self.remat else Block
        return block(
            self.attention_head_dim, self.attention_bias, self.activation_fn,
            self.num_embeds_ada_norm, self.norm_elementwise_affine, self.norm_eps, self.dropout,
            train, self.compute_dtype, name=f"transformer_blocks_{index}",
        )  # fmt: skip


class PatchEmbed(nn.Module):
    """Each patch of an image through one dense layer, kept as a convolution; row by row.

    `bottleneck` puts a narrower one before it, without a bias.
    """

    size: int
    width: int
    bottleneck: int | None
    dtype: str

    @nn.compact
    def __call__(self, x: Images) -> Patches:
        # A dense layer's start: each number of a patch is an input of its own.
        start = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1, 2))
        conv = partial(Conv, kernel_init=start, padding="VALID", dtype=self.dtype)
        window = (self.size, self.size)
        if self.bottleneck is not None:
            x = conv(self.bottleneck, window, window, use_bias=False, name="bottleneck")(x)
            window = (1, 1)
        x = conv(self.width, window, window, name="proj")(x)
        return x.reshape(len(x), -1, self.width)


class Block(nn.Module):
    """Attention, then a feed-forward layer: normalised, modulated, gated and added.

    adaLN-zero (Peebles & Xie 2023, sec. 3.2): the gates start at 0, the block as the identity. It
    returns the embedding of time and class too.
    """

    head_dim: int
    bias: bool
    activation: str
    classes: int | None
    affine: bool
    eps: float | int
    dropout: float | int
    train: bool
    dtype: str

    @nn.compact
    def __call__(
        self, h: Patches, t: Float[Array, " b"], labels: Labels | None
    ) -> tuple[Patches, Embedding]:
        modulation = Modulation(h.shape[-1], self.classes, self.dtype, name="norm1")
        (shift, scale, gate, ff_shift, ff_scale, ff_gate), emb = modulation(t, labels)
        normed = modulate(plain_norm(self.dtype)(h), shift, scale)
        attention = CrossAttention(self.head_dim, self.dtype, self.bias, name="attn1")
        h = h + gate[:, None] * self._drop(attention(normed, normed, None))
        norm3 = partial(nn.LayerNorm, use_fast_variance=False, dtype=self.dtype, name="norm3")
        normed = norm3(self.eps, use_bias=self.affine, use_scale=self.affine)(h)
        ff = FeedForward(self.dtype, self.activation, self.dropout, self.train, name="ff")
        return h + ff_gate[:, None] * ff(modulate(normed, ff_shift, ff_scale)), emb

    def _drop(self, h: Patches) -> Patches:
        return nn.Dropout(self.dropout, deterministic=not self.train)(h)


class Modulation(nn.Module):
    """Shift, scale and gate of attention, and those of the feed-forward layer; all start at 0."""

    width: int
    classes: int | None
    dtype: str

    @nn.compact
    def __call__(
        self, t: Float[Array, " b"], labels: Labels | None
    ) -> tuple[list[Embedding], Embedding]:
        emb = TimeClass(self.width, self.classes, self.dtype, name="emb")(t, labels)
        linear = Dense(6 * self.width, dtype=self.dtype, kernel_init=zeros, name="linear")
        return jnp.split(linear(nn.silu(emb)), 6, axis=-1), emb


class TimeClass(nn.Module):
    """The embedding of the time, plus that of the class where there are classes."""

    width: int
    classes: int | None
    dtype: str

    @nn.compact
    def __call__(self, t: Float[Array, " b"], labels: Labels | None) -> Embedding:
        features = sinusoids(t, TIME_FEATURES, shift=1)
        emb = TimeMLP(self.width, self.dtype, name="timestep_embedder")(features)
        if self.classes is None or labels is None:
            return emb
        table = ClassTable(self.classes + 1, self.width, name="class_embedder")
        return emb + table(labels).astype(emb.dtype)


class ClassTable(nn.Module):
    """A row for each class."""

    rows: int
    width: int

    @nn.compact
    def __call__(self, labels: Labels) -> Float[Array, "B E"]:
        # As far apart as torch's start: Linen's would drown in the time's.
        apart = nn.initializers.normal(1.0)
        table = nn.Embed(self.rows, self.width, embedding_init=apart, name="embedding_table")
        return look_up(table, labels)


def plain_norm(dtype: str) -> nn.LayerNorm:
    """Layer normalisation without weights, in two passes."""
    return nn.LayerNorm(NORM_EPS, dtype, use_bias=False, use_scale=False, use_fast_variance=False)


def modulate(h: Patches, shift: Embedding, scale: Embedding) -> Patches:
    """h (1 + scale) + shift, the same for all patches of an image."""
    return h * (1 + scale[:, None]) + shift[:, None]


def positions(
    rows: int, columns: int, base: tuple[int, int], width: int
) -> Float[np.ndarray, "T D"]:
    """Sines and cosines of each patch's column, then those of its row, at width / 4 periods.

    The periods are from 2π to almost 10000·2π patches (Vaswani et al. 2017, sec. 3.5). Rows and
    columns lie evenly from 0 to below `base`.
    """
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width // 4))

    def waves(count: int, length: int) -> Float[np.ndarray, "_ E"]:
        angles = np.arange(count)[:, None] * length / count * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)

    of_rows, of_columns = waves(rows, base[0]), waves(columns, base[1])
    return np.concatenate([np.tile(of_columns, (rows, 1)), of_rows.repeat(columns, 0)], axis=-1)


def unpatchify(h: Patches, rows: int, size: int) -> Images:
    """The image of patches that lie row by row, each pixel by pixel with its channels together."""
    return einops.rearrange(h, "b (r c) (p q d) -> b (r p) (c q) d", r=rows, p=size, q=size)


def _sizes(net: DiT) -> tuple[int, int]:
    size = net.sample_size
    return size if isinstance(size, tuple) else (size, size)


def _check(net: DiT) -> None:
    """Refuses names that are not among the legal ones, and numbers out of range."""
    for name, legal in (("activation_fn", WIDENINGS), ("dtype", DTYPES)):
        if getattr(net, name) not in legal:
            shown = ", ".join(map(repr, legal))
            raise UserError(f"dit has no {name} {getattr(net, name)!r}: choose one of {shown}")
    for name in POSITIVE:
        value = getattr(net, name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(number is not None and not number > 0 for number in numbers):
            raise UserError(f"dit({name}={value}): {name} must be above 0")
    if not 0 <= net.dropout < 1:
        raise UserError(f"dit(dropout={net.dropout}): dropout must be from 0 to below 1")
    if net.width % 4:
        raise UserError(
            f"dit(num_attention_heads={net.num_attention_heads}, attention_head_dim="
            f"{net.attention_head_dim}): a token of {net.width} numbers has no table of positions: "
            "choose a product that is a multiple of 4"
        )
    _check_division(net, *_sizes(net))


def _check_division(net: DiT, height: int, width: int) -> None:
    if height % net.patch_size or width % net.patch_size:
        raise UserError(
            f"dit(patch_size={net.patch_size}): images are {height}x{width}: resize them to "
            f"multiples of {net.patch_size}, or choose another patch_size"
        )


def _check_input(net: DiT, x: Images, labels: Num[Array, "B ..."] | None) -> None:
    """Refuses images of another kind, and labels where none belong or none are given."""
    height, width, channels = x.shape[1:]
    if channels != net.in_channels:
        raise UserError(
            f"images have {channels} channels, this DiT takes {net.in_channels}: "
            f"set in_channels={channels}"
        )
    _check_division(net, height, width)
    if net.num_embeds_ada_norm is None and labels is not None:
        raise UserError("this DiT takes no condition: set num_embeds_ada_norm or give no cond")
    if net.num_embeds_ada_norm is not None and labels is None:
        raise UserError("this DiT is conditioned on classes: give cond")
    if labels is not None and labels.shape != (len(x),):
        raise UserError(f"cond has shape {labels.shape}: this DiT takes {(len(x),)}")

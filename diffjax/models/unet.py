"""The U-Net of DDPM, ADM and NCSN++, block for block the one whose weights diffusers publishes."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Num

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
    ResnetBlock,
    TimeMLP,
    sinusoids,
    zeros,
)
from diffjax.models.unet_blocks import (
    PYRAMID_CHANNELS,
    DownBlock,
    Kind,
    Level,
    MidBlock,
    Part,
    UpBlock,
)
from diffjax.typing import Images, TimeInput, Times

__all__ = ["UNet"]

Labels = Num[Array, "B"] | Float[Array, "B E"]


DOWN = {
    "DownBlock2D": Kind(),
    "AttnDownBlock2D": Kind(attention=True),
    "ResnetDownsampleBlock2D": Kind(resnet=True),
    "SkipDownBlock2D": Kind(skip=True),
    "AttnSkipDownBlock2D": Kind(attention=True, skip=True),
}
UP = {
    "UpBlock2D": Kind(),
    "AttnUpBlock2D": Kind(attention=True),
    "ResnetUpsampleBlock2D": Kind(resnet=True),
    "SkipUpBlock2D": Kind(skip=True),
    "AttnSkipUpBlock2D": Kind(attention=True, skip=True),
}
CHOICES: dict[str, tuple[str | None, ...]] = {
    "mid_block_type": ("UNetMidBlock2D", None),
    "time_embedding_type": ("positional", "fourier", "learned"),
    "class_embed_type": (None, "timestep", "identity"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "dtype": (None, "float32", "bfloat16", "float16"),
}
POSITIVE = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "attention_head_dim",
    "norm_num_groups",
    "norm_eps",
    "attn_norm_num_groups",
    "mid_block_scale_factor",
    "time_embedding_dim",
    "num_train_timesteps",
    "num_class_embeds",
)
PLAIN = Kind()
SKIP_SCALE = 2**0.5  # keeps the variance of a sum of two (Song et al. 2021, sec. 4.1)


class UNet(Backbone):
    """Noisy images and a time to an image-shaped output (Ho et al. 2020, app. B; ADM; NCSN++).

    Fields are those of diffusers' UNet2DModel, defaults included. `attention_head_dim` None means
    one head; `sample_size` is a note. `dtype` is what is computed in, None what the machine is
    built for: bfloat16 on an accelerator, float32 on a CPU; parameters and output are float32.
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
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self) -> None:
        _check_lengths(self)
        _check_choices(self)
        _check_numbers(self)
        _check_blocks(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Images, t: Times, cond: Labels | None = None, *, train: bool = False
    ) -> Float[Array, "B H W D"]:
        """The network's output for images `x` at time(s) `t` in 0..999, dropout only in training.

        With time_embedding_type "fourier" `t` is a noise level, above 0. `cond` are labels below
        num_class_embeds (others give NaN), times for class_embed_type "timestep", or embeddings for
        "identity". Raises UserError for images or a condition that does not fit.
        """
        _check_input(self, x, cond)
        t = jnp.atleast_1d(t).astype(jnp.float32)
        emb = ACTIVATIONS[self.act_fn.lower()](self._embed(t, cond))
        parts = self._parts(train)
        image = x = (2 * x - 1 if self.center_input_sample else x).astype(self.compute_dtype)
        x = Conv3x3(self.block_out_channels[0], dtype=self.compute_dtype, name="conv_in")(x)
        states = [x]
        for i, level in enumerate(_down_levels(self)):
            down = DownBlock(level, *parts, self.downsample_padding, name=f"down_blocks_{i}")
            x, image, new = down(x, emb, image)
            states += new
        if self.mid_block_type is not None:
            x = MidBlock(_mid_level(self), *parts, name="mid_block")(x, emb)
        drawn: Array | None = None
        for i, level in enumerate(_up_levels(self)):
            taken = [states.pop() for _ in level.groups_in]
            up = UpBlock(level, *parts, self.norm_eps, name=f"up_blocks_{i}")
            x, drawn = up(x, emb, drawn, taken)
        x = nn.silu(self._norm_out(x))
        x = Conv3x3(
            self.out_channels, dtype=self.compute_dtype, kernel_init=zeros, name="conv_out"
        )(x)
        x = x.astype(jnp.float32)
        if drawn is not None:
            x = x + drawn
        return x / t[:, None, None, None] if self.time_embedding_type == "fourier" else x

    @property
    def time_input(self) -> TimeInput:
        return "sigma" if self.time_embedding_type == "fourier" else "index"

    @property
    def time_rows(self) -> int | None:
        return self.num_train_timesteps if self.time_embedding_type == "learned" else None

    @nn.nowrap
    def takes(self, drop: float = 0.0, mask: Mask = "sample") -> Condition:
        check_mask(mask, drop, None)
        if self.num_class_embeds is not None:
            return Label(self.num_class_embeds, drop=drop)
        match self.class_embed_type:
            case "identity":
                return Vector(_embedding_width(self), drop=drop)
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
        return self.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")

    def _parts(self, train: bool) -> tuple[Part, Part]:
        """Residual block and attention with what is the same throughout the network."""
        residual, attention = ResnetBlock, Attention
        if self.remat:
            residual, attention = nn.remat(ResnetBlock), nn.remat(Attention)
        resnet = partial(
            residual,
            eps=self.norm_eps,
            activation=ACTIVATIONS[self.act_fn.lower()],
            dropout=self.dropout,
            scale_shift=self.resnet_time_scale_shift == "scale_shift",
            train=train,
            dtype=self.compute_dtype,
        )
        return resnet, partial(attention, eps=self.norm_eps, dtype=self.compute_dtype)

    def _norm_out(self, x: Images) -> Images:
        groups = _groups(self, self.block_out_channels[0])
        return GroupNorm(groups, self.norm_eps, self.compute_dtype, name="conv_norm_out")(x)

    def _embed(self, t: Float[Array, "b"], labels: Labels | None) -> Embedding:
        """The embedding of the time, plus that of the class."""
        width = _embedding_width(self)
        features = self._time_features()
        emb = TimeMLP(width, self.compute_dtype, name="time_embedding")(features(t))
        if labels is None:
            return emb
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
                of_class = _look_up(table, labels)
        return emb + of_class.astype(emb.dtype)

    def _time_features(self) -> Callable[[Float[Array, "b"]], Float[Array, "b F"]]:
        width = self.block_out_channels[0]
        match self.time_embedding_type:
            case "fourier":
                return FourierFeatures(width, name="time_proj")
            case "learned":
                rows = self.num_train_timesteps or 0  # above 0, checked when built
                table = nn.Embed(rows, width, name="time_proj")
                # Before the first step, from index -1 at t = 0, its row serves.
                first = partial(jnp.maximum, 0)
                return lambda t: _look_up(
                    table, jnp.round(jnp.where(t < -1, t, first(t))).astype(jnp.int32)
                )
        cos_first = self.flip_sin_to_cos
        return partial(sinusoids, width=width, shift=self.freq_shift, cos_first=cos_first)


def _look_up(table: nn.Embed, rows: Num[Array, "b"]) -> Float[Array, "b E"]:
    """The rows of a table. One that is not there is NaN, also below 0, which would wrap round."""
    return table(jnp.where(rows < 0, table.num_embeddings, rows))


def _embedding_width(net: UNet) -> int:
    return net.time_embedding_dim or 4 * net.block_out_channels[0]


def _down_levels(net: UNet) -> Iterator[Level]:
    before = (net.block_out_channels[0], *net.block_out_channels)
    for i, block in enumerate(net.down_block_types):
        channels = net.block_out_channels[i]
        inputs = [(before[i], 0)] + [(channels, 0)] * (net.layers_per_block - 1)
        yield _level(net, block, DOWN[block], net.downsample_type, i, inputs, channels)


def _up_levels(net: UNet) -> Iterator[Level]:
    """Going up there is a residual block more: it takes the state that the level began with."""
    widths = net.block_out_channels[::-1]
    for i, block in enumerate(net.up_block_types):
        channels, start = widths[i], widths[min(i + 1, len(widths) - 1)]
        x = [widths[max(i - 1, 0)]] + [channels] * net.layers_per_block
        states = [channels] * net.layers_per_block + [start]
        inputs = list(zip(x, states, strict=True))
        yield _level(net, block, UP[block], net.upsample_type, i, inputs, channels)


def _level(
    net: UNet,
    block: str,
    kind: Kind,
    resample: str,
    index: int,
    inputs: list[tuple[int, int]],
    channels: int,
) -> Level:
    if kind.attention and not kind.skip:  # the one kind that the option reaches
        kind = dataclasses.replace(kind, resnet=resample == "resnet")
    groups_in = [_groups(net, sum(pair), kind) for pair in inputs]
    if block == "AttnSkipUpBlock2D":  # published weights were trained with this grouping
        groups_in = [min(x + state // 4, 32) for x, state in inputs]
    return Level(
        block=block,
        kind=kind,
        channels=channels,
        inputs=tuple(map(sum, inputs)),
        groups_in=tuple(groups_in),
        groups_out=_groups(net, channels, kind),
        head_dim=(net.attention_head_dim or channels) if kind.attention else None,
        attention_groups=32 if kind.skip else net.norm_num_groups,
        out_scale=SKIP_SCALE if kind.skip else 1,
        resamples=index < len(net.block_out_channels) - 1,
    )


def _mid_level(net: UNet) -> Level:
    channels = net.block_out_channels[-1]
    groups = _groups(net, channels)
    attention_groups = net.attn_norm_num_groups
    if attention_groups is None and net.resnet_time_scale_shift == "default":
        attention_groups = groups
    return Level(
        block="UNetMidBlock2D",
        kind=Kind(attention=net.add_attention),
        channels=channels,
        inputs=(channels, channels),
        groups_in=(groups, groups),
        groups_out=groups,
        head_dim=(net.attention_head_dim or channels) if net.add_attention else None,
        attention_groups=attention_groups,
        out_scale=net.mid_block_scale_factor,
        resamples=False,
    )


def _groups(net: UNet, channels: int, kind: Kind = PLAIN) -> int:
    """Skip blocks choose their own groups; so do the layers outside where none are given."""
    if kind.skip or net.norm_num_groups is None:
        return min(channels // 4, 32)
    return net.norm_num_groups


def _check_choices(net: UNet) -> None:
    """Refuses names that are not among the legal ones."""
    blocks = {"down_block_types": DOWN, "up_block_types": UP}
    given: list[tuple[str, str | None, Collection[str | None]]]
    given = [(name, value, table) for name, table in blocks.items() for value in getattr(net, name)]
    given += [(name, getattr(net, name), legal) for name, legal in CHOICES.items()]
    given += [("act_fn", net.act_fn.lower(), ACTIVATIONS)]
    for name, value, legal in given:
        if value not in legal:
            choices = ", ".join(map(repr, legal))
            raise UserError(f"unet has no {name} {value!r}: choose one of {choices}")


def _check_numbers(net: UNet) -> None:
    """Refuses numbers out of range, one by one."""
    for name in POSITIVE:
        value = getattr(net, name)
        values = value if isinstance(value, tuple) else (value,)
        if any(v is not None and not v > 0 for v in values):
            raise UserError(f"unet({name}={value}): {name} must be above 0")
    if not 0 <= net.dropout < 1:
        raise UserError(f"unet(dropout={net.dropout}): dropout must be from 0 to below 1")
    if net.downsample_padding not in (0, 1):
        raise UserError(
            f"unet(downsample_padding={net.downsample_padding}): only 0 and 1 halve images"
        )
    half = net.block_out_channels[0] // 2
    if net.time_embedding_type == "positional" and half <= net.freq_shift:
        raise UserError(
            f"unet(freq_shift={net.freq_shift}): must be below half of the first width, {half}"
        )
    if net.time_embedding_type == "learned" and net.num_train_timesteps is None:
        raise UserError("unet(time_embedding_type='learned') needs num_train_timesteps")
    if net.class_embed_type is not None and net.num_class_embeds is not None:
        raise UserError(
            f"unet(num_class_embeds={net.num_class_embeds}) has no effect with "
            f"class_embed_type={net.class_embed_type!r}: leave one of them out"
        )


def _check_lengths(net: UNet) -> None:
    """Refuses lists of levels of different lengths, or empty."""
    names = ("block_out_channels", "down_block_types", "up_block_types")
    lengths = [len(getattr(net, name)) for name in names]
    if lengths != [lengths[0] or 1] * 3:
        counts = ", ".join(f"{name} has {n}" for name, n in zip(names, lengths, strict=True))
        raise UserError(f"unet: {counts}; they must have one entry a level, the same number")


def _check_blocks(net: UNet) -> None:
    """Refuses blocks that do not fit together, and channels that their layers cannot divide."""
    _check_pyramid(net)
    levels = [*_down_levels(net), *_up_levels(net)]
    if net.mid_block_type is not None:
        levels.append(_mid_level(net))
    for level in levels:
        _check_level(net, level)
    _check_division(
        "conv_norm_out", net.block_out_channels[0], _groups(net, net.block_out_channels[0])
    )
    factor = 2 ** (len(net.block_out_channels) - 1)
    sizes = net.sample_size if isinstance(net.sample_size, tuple) else (net.sample_size,)
    if any(size is not None and (size < 1 or size % factor) for size in sizes):
        raise UserError(
            f"unet(sample_size={net.sample_size}): {len(net.block_out_channels)} levels need "
            f"images of a multiple of {factor} pixels: resize them, or use fewer levels"
        )


def _check_pyramid(net: UNet) -> None:
    """Refuses an image pyramid with a gap: each skip block takes the image of the one before."""
    down = [DOWN[name].skip for name in net.down_block_types]
    up = [UP[name].skip for name in net.up_block_types]
    # The last block down does not resample and takes no image.
    if down[:-1] != sorted(down[:-1], reverse=True):
        raise UserError(
            f"unet(down_block_types={net.down_block_types}): Skip blocks come before others"
        )
    if up != sorted(up):
        raise UserError(f"unet(up_block_types={net.up_block_types}): Skip blocks come after others")
    for name, skips in (("in_channels", down), ("out_channels", up)):
        if any(skips) and getattr(net, name) != PYRAMID_CHANNELS:
            raise UserError(
                f"unet({name}={getattr(net, name)}): Skip blocks work on images of "
                f"{PYRAMID_CHANNELS} channels; choose other blocks"
            )


def _check_level(net: UNet, level: Level) -> None:
    if net.norm_num_groups is None and not level.kind.skip and level.block in DOWN | UP:
        raise UserError(f"unet(norm_num_groups=None): {level.block} needs a number")
    for channels, groups in zip(level.inputs, level.groups_in, strict=True):
        _check_division(level.block, channels, groups)
    _check_division(level.block, level.channels, level.groups_out)
    if level.head_dim is None:
        return
    if level.attention_groups is not None:
        _check_division(level.block, level.channels, level.attention_groups)
    if level.channels % level.head_dim:
        raise UserError(
            f"unet(attention_head_dim={level.head_dim}): {level.block} has {level.channels} "
            "channels, not a multiple of it; None means one head"
        )


def _check_division(block: str, channels: int, groups: int) -> None:
    if groups < 1 or channels % groups:
        raise UserError(
            f"unet: {block} would normalise {channels} channels in {groups} groups, which do not "
            "divide them: change block_out_channels, norm_num_groups or attn_norm_num_groups"
        )


def _check_input(net: UNet, x: Images, labels: Labels | None) -> None:
    """Refuses images of another kind, and labels where none belong or none are given."""
    height, width, channels = x.shape[1:]
    if channels != net.in_channels:
        raise UserError(
            f"images have {channels} channels, the U-Net takes {net.in_channels}: "
            f"set in_channels={channels}"
        )
    factor = 2 ** (len(net.block_out_channels) - 1)
    if height % factor or width % factor:
        raise UserError(
            f"images are {height}x{width}, and {len(net.block_out_channels)} levels halve them "
            f"{len(net.block_out_channels) - 1} times: resize them to multiples of {factor}, "
            "or use fewer levels"
        )
    takes_labels = net.class_embed_type is not None or net.num_class_embeds is not None
    if takes_labels and labels is None:
        raise UserError("this U-Net is conditioned on classes: give cond")
    if labels is not None and not takes_labels:
        raise UserError("this U-Net takes no condition: set num_class_embeds or give no cond")
    if labels is not None:
        shape = (_embedding_width(net),) if net.class_embed_type == "identity" else ()
        if labels.shape[1:] != shape:
            raise UserError(f"cond has shape {labels.shape}: this U-Net takes {(len(x), *shape)}")

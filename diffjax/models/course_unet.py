"""The U-Net of the course "Generative AI with Diffusion Models", as in each of its notebooks."""

import dataclasses
from functools import partial
from typing import Literal

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from diffjax.conditions.base import Condition, Mask
from diffjax.conditions.none import Unconditional
from diffjax.conditions.one_hot import OneHot
from diffjax.conditions.vector import Vector
from diffjax.errors import UserError
from diffjax.models.backbone import Backbone, check_mask
from diffjax.models.batch_norm import BatchNorm
from diffjax.models.layers import (
    ACTIVATIONS,
    Conv3x3,
    Dense,
    Downsample,
    FourierFeatures,
    GroupNorm,
    Resized,
    average_pixels,
    largest_pixels,
    sinusoids,
)
from diffjax.models.stateful import Stateful
from diffjax.models.upsampling import WAYS, Transposed, Way
from diffjax.typing import Images, Times

__all__ = ["CourseUNet"]

Form = Literal["first", "refined"]
Norm = Literal["group", "batch", "layer", "instance", "none"]
Activation = Literal["gelu", "silu", "relu"]
Pooling = Literal["rearrange", "max", "strided", "average"]
TimeEmbedding = Literal["none", "sinusoidal", "fourier", "raw"]
Cond = Int[Array, "B"] | Float[Array, "B K"]
TIME_FEATURES = 8
LEVELS = 2  # how often images are halved


@dataclasses.dataclass(frozen=True)
class Style:
    """What comes after a convolution."""

    norm: Norm
    groups: int
    groups_are: Literal["number", "size"]
    activation: Activation
    train: bool

    def groups_of(self, channels: int) -> int:
        """How many groups so many channels are normalised in."""
        if self.norm == "layer":
            return 1
        if self.norm == "instance":
            return channels
        return self.groups if self.groups_are == "number" else channels // self.groups

    def finish(self, x: Images) -> Images:
        """x normalised, by a submodule of the calling one, and activated."""
        if self.norm == "batch":
            x = BatchNorm(self.train, name="norm")(x)
        elif self.norm != "none":
            x = GroupNorm(self.groups_of(x.shape[-1]), name="norm")(x)
        return ACTIVATIONS[self.activation](x)


class ConvBlock(nn.Module):
    """A 3x3 convolution and what comes after it."""

    channels: int
    style: Style

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        return self.style.finish(Conv3x3(self.channels, name="conv")(x))


class DownBlock(nn.Module):
    """Two convolutions, then half the height and width."""

    channels: int
    style: Style
    pooling: Pooling

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        for i in range(2):
            x = ConvBlock(self.channels, self.style, name=f"conv_{i}")(x)
        match self.pooling:
            case "rearrange":
                x = einops.rearrange(x, "b (h p) (w q) c -> b h w (c p q)", p=2, q=2)
                return ConvBlock(self.channels, self.style, name="pool")(x)
            case "max":
                return largest_pixels(x)
            case "strided":
                return Downsample(self.channels, name="pool")(x)
            case "average":
                return average_pixels(x)


class UpBlock(nn.Module):
    """Twice the height and width of x beside what the way down left, then convolutions."""

    channels: int
    style: Style
    upsample: Way
    form: Form

    @nn.compact
    def __call__(self, x: Images, skip: Images) -> Resized:
        first = self.form == "first"
        way = WAYS[self.upsample]
        if first and self.upsample == "transposed":
            way = partial(Transposed, kernel=3)
        x = way(self.channels, name="up")(jnp.concatenate([x, skip], axis=-1))
        x = self.style.finish(x) if first else x
        for i in range(1 if first else 4):
            x = ConvBlock(self.channels, self.style, name=f"conv_{i}")(x)
        return x


class EmbedBlock(nn.Module):
    """Two dense layers with a GELU between, one number a channel."""

    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b F"]) -> Float[Array, "b 1 1 C"]:
        h = ACTIVATIONS["gelu"](Dense(self.channels, name="linear_1")(x))
        return Dense(self.channels, name="linear_2")(h)[:, None, None]


class CourseUNet(Stateful, Backbone):
    """Images, a time and a condition to an image-shaped output, through a dense bottleneck.

    | notebook | specification | images | parameters |
    |---|---|---|---|
    | 01 | `course_unet(FIRST, time_embedding='none')` | 16x16x1 | 234,977 |
    | 02 | `course_unet(FIRST, time_embedding='raw', time_scale=150)` | 16x16x1 | 240,385 |
    | 03 | `course_unet(time_scale=150)` | 16x16x1 | 1,979,777 |
    | 04a | `course_unet(time_scale=150, num_class_embeds=10)` | 16x16x1 | 2,002,561 |
    | 04b | `course_unet(LARGE, time_scale=400, num_class_embeds=3)` | 32x32x3 | 44,509,443 |
    | 05 | `course_unet(LARGE, time_scale=400, cond_dim=512)` | 32x32x3 | 44,900,355 |

    FIRST: form='first', channels=(16,32,64), norm='batch', activation='relu', pooling='max'.
    LARGE: channels=(256,256,512).

    form: `refined` has a residual stem, which the head sees again, and four convolutions a block
    on the way up; `first` has neither, one convolution, and upsampling whose transposed kernel is 3
    and not 2, normalised and activated. norm: over a group of channels, the batch, all of a sample
    (`layer`), or one channel of a sample (`instance`). groups: of stem and head, and of all else;
    8 and 32 are meant as groups' sizes, but the course gives them as their number.
    activation: of stem and blocks; the dense layers and the head keep ReLU, embeddings GELU.
    time_embedding: sinusoids of DDPM's index over time_scale, that alone (`raw`), or Fourier
    features of the logarithm; time_scale is the course's T where it embeds t/T.
    num_class_embeds: labels, of which the one after the last is no class, or as many numbers a
    sample; cond_dim: so many numbers a sample.

    Raises UserError for numbers out of range, groups that do not divide their channels and sizes
    that cannot be halved twice.
    """

    in_channels: int = 1
    out_channels: int = 1
    sample_size: int | tuple[int, int] | None = None
    channels: tuple[int, int, int] = (64, 64, 128)
    form: Form = "refined"
    norm: Norm = "group"
    groups: tuple[int, int] = (8, 32)
    groups_are: Literal["number", "size"] = "number"
    activation: Activation = "gelu"
    pooling: Pooling = "rearrange"
    upsample: Way = "transposed"
    time_embedding: TimeEmbedding = "sinusoidal"
    time_scale: int = 1
    num_class_embeds: int | None = None
    cond_dim: int | None = None

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    @nn.nowrap
    def takes(self, drop: float = 0.0, mask: Mask = "sample") -> Condition:
        check_mask(mask, drop, self.num_class_embeds or self.cond_dim)
        if self.num_class_embeds is not None:
            return OneHot(self.num_class_embeds, mask, drop=drop)
        if self.cond_dim is not None:
            return Vector(self.cond_dim, mask, drop=drop)
        return Unconditional(drop=drop)

    @nn.compact
    def __call__(
        self, x: Images, t: Times | None = None, cond: Cond | None = None, *,
        train: bool = False,
    ) -> Float[Array, "B H W D"]:  # fmt: skip
        """The network's output for images `x` at time(s) `t` in 0 ... T - 1.

        `train` is for batch norm. Labels beyond num_class_embeds give NaN. The weights fit images
        of one size. Raises UserError for images, a time or a condition that do not fit.
        """
        _check_input(self, x, t, cond)
        refined, (wide, mid, deep) = self.form == "refined", self.channels
        outer, inner = _styles(self, train)
        stem = ConvBlock(wide, outer, name="stem_0")(x)
        if refined:
            stem = stem + ConvBlock(wide, outer, name="stem_1")(stem)
        down1 = DownBlock(mid, inner, self.pooling, name="down1")(stem)
        down2 = DownBlock(deep, inner, self.pooling, name="down2")(down1)
        h = ConvBlock(deep, inner, name="up0")(self._bottleneck(down2))
        features, numbers = self._time_features(t), self._numbers(cond)
        for i, (channels, skip) in enumerate(((mid, down2), (wide, down1)), start=1):
            if numbers is not None:
                h = EmbedBlock(h.shape[-1], name=f"cond{i}")(numbers) * h
            if features is not None:
                h = h + EmbedBlock(h.shape[-1], name=f"time{i}")(features)
            h = UpBlock(channels, inner, self.upsample, self.form, name=f"up{i}")(h, skip)
        h = jnp.concatenate([h, stem], axis=-1) if refined else h
        h = ConvBlock(wide, dataclasses.replace(outer, activation="relu"), name="head")(h)
        return Conv3x3(self.out_channels, name="out")(h)

    def _bottleneck(self, x: Images) -> Images:
        """All pixels through a few numbers and back."""
        h = ACTIVATIONS[self.activation](x.reshape(len(x), -1))
        for i, width in enumerate((self.channels[1], self.channels[1], h.shape[-1])):
            h = nn.relu(Dense(width, name=f"dense_{i}")(h))
        return h.reshape(x.shape)

    def _time_features(self, t: Times | None) -> Float[Array, "b F"] | None:
        if t is None or self.time_embedding == "none":
            return None
        t = jnp.atleast_1d(t).astype(jnp.float32)
        match self.time_embedding:
            case "raw":
                return (t / self.time_scale)[:, None]
            case "sinusoidal":
                scaled = t / self.time_scale
                return sinusoids(scaled, TIME_FEATURES, shift=1, cos_first=False)
            case "fourier":  # counted from 1, also before the first step: 0 has no logarithm
                fourier = FourierFeatures(TIME_FEATURES // 2, name="time_proj")
                return fourier((jnp.maximum(t, 0) + 1) / self.time_scale)

    def _numbers(self, cond: Cond | None) -> Float[Array, "B K"] | None:
        """The condition as numbers: labels as one-hot ones, the label of no class as zeros."""
        if cond is None or cond.ndim > 1:
            return cond
        classes = self.num_class_embeds or 0  # above 0, or labels would not be here
        known = (cond >= 0) & (cond <= classes)
        return jnp.where(known[:, None], jax.nn.one_hot(cond, classes), jnp.nan)


def _styles(net: CourseUNet, train: bool) -> tuple[Style, Style]:
    """What comes after the convolutions of stem and head, and after the others."""
    style = partial(
        Style, net.norm, groups_are=net.groups_are, activation=net.activation, train=train
    )
    return style(groups=net.groups[0]), style(groups=net.groups[1])


def _check(net: CourseUNet) -> None:
    """Refuses numbers out of range, and groups and sizes that do not divide."""
    for field in (
        "in_channels", "out_channels", "channels", "groups", "time_scale", "num_class_embeds",
        "cond_dim",
    ):  # fmt: skip
        value = getattr(net, field)
        if any(v is not None and v < 1 for v in (value if isinstance(value, tuple) else (value,))):
            raise UserError(f"course_unet({field}={value}): {field} must be above 0")
    if net.num_class_embeds is not None and net.cond_dim is not None:
        raise UserError(
            f"course_unet(num_class_embeds={net.num_class_embeds}, cond_dim={net.cond_dim}): "
            "it takes one condition: leave one of them out"
        )
    if net.norm == "group":
        _check_groups(net)
    sizes = net.sample_size if isinstance(net.sample_size, tuple) else (net.sample_size,)
    if any(size is not None and (size < 1 or size % 2**LEVELS) for size in sizes):
        raise UserError(
            f"course_unet(sample_size={net.sample_size}) halves images twice: "
            "resize them to multiples of 4 pixels"
        )


def _check_groups(net: CourseUNet) -> None:
    wide, mid, deep = net.channels
    for groups, all_channels in zip(net.groups, ((wide,), (wide, mid, deep)), strict=True):
        for channels in all_channels:
            if channels % groups:
                raise UserError(
                    f"course_unet(channels={net.channels}, groups={net.groups}): {channels} "
                    f"channels cannot be cut in groups by {groups}: choose a divisor"
                )


def _check_input(net: CourseUNet, x: Images, t: Times | None, cond: Cond | None) -> None:
    """Refuses images of another kind, and a time or condition that is missing or has no place."""
    height, width, channels = x.shape[1:]
    if channels != net.in_channels:
        raise UserError(
            f"images have {channels} channels, this U-Net takes {net.in_channels}: "
            f"set in_channels={channels}"
        )
    if height % 2**LEVELS or width % 2**LEVELS:
        raise UserError(
            f"images are {height}x{width} and are halved twice: resize them to multiples of 4"
        )
    if t is None and net.time_embedding != "none":
        raise UserError("this U-Net wants a time: give t, or set time_embedding='none'")
    wanted = net.num_class_embeds or net.cond_dim
    if (cond is None) != (wanted is None):
        raise UserError(
            "this U-Net knows no condition: set num_class_embeds or cond_dim, or give no cond"
            if wanted is None
            else "this U-Net is conditioned: give cond"
        )
    shapes = [(len(x), wanted)] + [(len(x),)] * (net.num_class_embeds is not None)
    if cond is not None and cond.shape not in shapes:
        legal = " or ".join(map(str, shapes))
        raise UserError(f"cond has shape {cond.shape}: this U-Net takes {legal}")

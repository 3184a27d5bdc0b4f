"""The three blocks of a U-Net: on the way down, at the bottom, on the way up; and all in turn."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from diffjax.models.layers import (
    ACTIVATIONS,
    Conv1x1,
    Conv3x3,
    Downsample,
    Embedding,
    GroupNorm,
    Resized,
    ResnetBlock,
    Upsample,
    average_pixels,
    fir_down,
    fir_up,
    repeat_pixels,
    zeros,
)
from diffjax.typing import Images

Part = Callable[..., Any]
PYRAMID_CHANNELS = 3  # diffusers fixes it for the Skip blocks


@dataclasses.dataclass(frozen=True)
class Kind:
    """What sets a block apart: attention, resampling by a residual block, a pyramid of images."""

    attention: bool = False
    resnet: bool = False
    skip: bool = False


@dataclasses.dataclass(frozen=True)
class Level:
    """One block in numbers. `inputs` and `groups_in` hold one entry a residual block."""

    block: str  # its type, as diffusers names it
    kind: Kind
    channels: int
    inputs: tuple[int, ...]
    groups_in: tuple[int, ...]
    groups_out: int
    head_dim: int | None  # None: no attention
    attention_groups: int | None  # None: no normalisation in the attention
    out_scale: float | int
    resamples: bool

    def residual(self, resnet: Part) -> Part:
        """`resnet` with this level's numbers, to be given a name and maybe a groups_in."""
        groups = {"groups_in": self.groups_out, "groups_out": self.groups_out}
        return partial(resnet, channels=self.channels, out_scale=self.out_scale, **groups)

    def attend(self, attention: Part, index: int) -> Part:
        """`attention` with the numbers of this level's attention `index`, to be given a name."""
        numbers = {"head_dim": self.head_dim, "groups": self.attention_groups}
        return partial(attention, out_scale=self.out_scale, **numbers)


class DownBlock(nn.Module):
    """Residual blocks, each with attention or without, then half the resolution.

    A skip block adds a smaller copy of the input image as well (NCSN++'s input skip).
    """

    level: Level
    resnet: Part
    attention: Part
    padding: int

    @nn.compact
    def __call__(
        self, x: Images, emb: Embedding, image: Float[Array, "B h1 w1 P"]
    ) -> tuple[Resized, Float[Array, "B h2 w2 P"], list[Array]]:
        """Features and image for the next block, and the states that the way up will take."""
        level, states = self.level, []
        resnet = level.residual(self.resnet)
        for i, groups in enumerate(level.groups_in):
            x = resnet(groups_in=groups, name=f"resnets_{i}")(x, emb)
            if level.head_dim is not None:
                x = level.attend(self.attention, i)(name=f"attentions_{i}")(x)
            states.append(x)
        if not level.resamples:
            return x, image, states
        dtype = x.dtype.name
        if level.kind.skip:
            x = resnet(resample=fir_down, project=True, name="resnet_down")(x, emb)
            image = fir_down(image)
            x = x + Conv1x1(level.channels, dtype=dtype, name="skip_conv")(image)
        elif level.kind.resnet:
            x = resnet(resample=average_pixels, name="downsamplers_0")(x, emb)
        else:
            x = Downsample(level.channels, self.padding, dtype, name="downsamplers_0")(x)
        return x, image, [*states, x]


class MidBlock(nn.Module):
    """Attention, or none, between two residual blocks."""

    level: Level
    resnet: Part
    attention: Part

    @nn.compact
    def __call__(self, x: Images, emb: Embedding | None) -> Resized:
        resnet = self.level.residual(self.resnet)
        x = resnet(name="resnets_0")(x, emb)
        if self.level.head_dim is not None:
            x = self.level.attend(self.attention, 0)(name="attentions_0")(x)
        return resnet(name="resnets_1")(x, emb)


class UpBlock(nn.Module):
    """Residual blocks, each on what it gets and a state from the way down, then twice the size.

    A skip block attends once, after them, and adds to an image of its own size (output skip).
    """

    level: Level
    resnet: Part
    attention: Part
    eps: float | int

    @nn.compact
    def __call__(
        self,
        x: Images,
        emb: Embedding,
        image: Float[Array, "B H//2 W//2 P"] | None,
        states: list[Array],
        size: tuple[int, int] | None,
    ) -> tuple[Resized, Float[Array, "B H W P"] | None]:
        """Features and image of the next block, whose height and width are `size`."""
        level, last = self.level, len(self.level.groups_in) - 1
        skip, attends = level.kind.skip, level.head_dim is not None
        resnet = level.residual(self.resnet)
        for i, groups in enumerate(level.groups_in):
            x = jnp.concatenate([x, states[i]], axis=-1)
            x = resnet(groups_in=groups, name=f"resnets_{i}")(x, emb)
            if attends and (not skip or i == last):
                name = "attentions_0" if skip else f"attentions_{i}"
                x = level.attend(self.attention, i)(name=name)(x)
        if skip:
            image = self._draw(x, image)
        if not level.resamples:
            return x, image
        if skip:
            x = resnet(resample=fir_up, project=True, name="resnet_up")(x, emb)
        elif level.kind.resnet:
            x = resnet(resample=repeat_pixels, name="upsamplers_0")(x, emb)
        else:
            x = Upsample(level.channels, x.dtype.name, name="upsamplers_0")(x, size)
        return x, image

    def _draw(
        self, x: Images, image: Float[Array, "B H//2 W//2 P"] | None
    ) -> Float[Array, "B H W P"] | None:
        """The image of the block before at this block's size, and what this one adds to it."""
        level = self.level
        image = image if image is None else fir_up(image)
        if not level.resamples:  # the network's own output layer adds the last part
            return image
        dtype = x.dtype.name
        h = nn.silu(GroupNorm(level.groups_out, self.eps, dtype, name="skip_norm")(x))
        h = Conv3x3(PYRAMID_CHANNELS, dtype=dtype, kernel_init=zeros, name="skip_conv")(h)
        return h if image is None else image + h


class Levels(NamedTuple):
    """All blocks of a U-Net in numbers, in the order in which they are computed."""

    down: tuple[Level, ...]
    mid: Level | None
    up: tuple[Level, ...]

    def all(self) -> tuple[Level, ...]:
        """Down, middle, up."""
        return (*self.down, *([] if self.mid is None else [self.mid]), *self.up)


def run_levels(
    net: Any,
    levels: Levels,
    parts: tuple[Part, Part],
    x: Images,
    emb: Embedding,
    image: Float[Array, "B H W P"],
) -> tuple[Resized, Float[Array, "B H W D"] | None]:
    """Features after all blocks, which are submodules of the calling U-Net `net`.

    With them what Skip blocks draw of the output, None without one. `image` is the input.
    """
    states = [x]
    for i, level in enumerate(levels.down):
        down = DownBlock(level, *parts, net.downsample_padding, name=f"down_blocks_{i}")
        x, image, new = down(x, emb, image)
        states += new
    if levels.mid is not None:
        x = MidBlock(levels.mid, *parts, name="mid_block")(x, emb)
    drawn: Array | None = None
    for i, level in enumerate(levels.up):
        taken = [states.pop() for _ in level.groups_in]
        up = UpBlock(level, *parts, net.norm_eps, name=f"up_blocks_{i}")
        size = (states[-1].shape[1], states[-1].shape[2]) if states else None
        x, drawn = up(x, emb, drawn, taken, size)
    return x, drawn


def residual_part(net: Any, train: bool) -> Part:
    """The residual block with what is the same throughout the U-Net `net`."""
    return partial(
        nn.remat(ResnetBlock) if net.remat else ResnetBlock,
        eps=net.norm_eps,
        activation=ACTIVATIONS[net.act_fn.lower()],
        dropout=net.dropout,
        scale_shift=net.resnet_time_scale_shift == "scale_shift",
        train=train,
        dtype=net.compute_dtype,
    )

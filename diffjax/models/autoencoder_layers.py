"""The encoder and the decoder of a first stage, without time (Rombach et al. 2022, app. G)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from flax import linen as nn

from diffjax.models.layers import Conv3x3, Downsample, GroupNorm, Resized, Upsample
from diffjax.models.unet_blocks import Kind, Level, MidBlock, Part
from diffjax.typing import Images

EPS = 1e-6  # of every normalisation in diffusers' autoencoders
DOWN = {"DownEncoderBlock2D": Kind(), "AttnDownEncoderBlock2D": Kind(attention=True)}
UP = {"UpDecoderBlock2D": Kind(), "AttnUpDecoderBlock2D": Kind(attention=True)}


def encoder_levels(net: Any) -> tuple[Level, ...]:
    """The blocks of the autoencoder `net` from the image's size to the latents'."""
    widths, depth = net.block_out_channels, net.layers_per_block
    return _levels(net, net.down_block_types, DOWN, widths, depth)


def decoder_levels(net: Any) -> tuple[Level, ...]:
    """The blocks from the latents' size to the image's, each of one residual block more."""
    widths, depth = net.block_out_channels[::-1], net.layers_per_block + 1
    return _levels(net, net.up_block_types, UP, widths, depth)


def middle_level(net: Any) -> Level:
    """The block at the latents' size, the same in the encoder and in the decoder."""
    kind, width = Kind(net.mid_block_add_attention), net.block_out_channels[-1]
    return _level(net, "UNetMidBlock2D", kind, (width, width), width, resamples=False)


def _levels(
    net: Any,
    blocks: Sequence[str],
    kinds: Mapping[str, Kind],
    widths: Sequence[int],
    depth: int,
) -> tuple[Level, ...]:
    """All levels but the last resample."""
    levels = []
    for i, (block, width) in enumerate(zip(blocks, widths, strict=True)):
        inputs = (widths[max(i - 1, 0)],) + (width,) * (depth - 1)
        levels.append(_level(net, block, kinds[block], inputs, width, i < len(widths) - 1))
    return tuple(levels)


def _level(
    net: Any, block: str, kind: Kind, inputs: tuple[int, ...], channels: int, resamples: bool
) -> Level:
    """Attention has one head, of all channels."""
    groups: int = net.norm_num_groups
    return Level(
        block=block,
        kind=kind,
        channels=channels,
        inputs=inputs,
        groups_in=(groups,) * len(inputs),
        groups_out=groups,
        head_dim=channels if kind.attention else None,
        attention_groups=groups,
        out_scale=1,
        resamples=resamples,
    )


class Stack(nn.Module):
    """Residual blocks, each with attention or without, then `resample` where the level has one."""

    level: Level
    resnet: Part
    attention: Part
    resample: Part

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        level = self.level
        resnet = level.residual(self.resnet)
        for i in range(len(level.inputs)):
            x = resnet(name=f"resnets_{i}")(x, None)
            if level.head_dim is not None:
                x = level.attend(self.attention, i)(name=f"attentions_{i}")(x)
        return self.resample(level.channels, dtype=x.dtype.name)(x) if level.resamples else x


class Encoder(nn.Module):
    """Images to maps of `out_channels`, at half the height and width per level but the last."""

    levels: tuple[Level, ...]
    middle: Level
    out_channels: int
    resnet: Part
    attention: Part

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        parts, dtype = (self.resnet, self.attention), x.dtype.name
        halve = partial(Downsample, padding=0, name="downsamplers_0")
        x = Conv3x3(self.levels[0].channels, dtype=dtype, name="conv_in")(x)
        for i, level in enumerate(self.levels):
            x = Stack(level, *parts, halve, name=f"down_blocks_{i}")(x)
        x = MidBlock(self.middle, *parts, name="mid_block")(x, None)
        return _output(x, self.middle.groups_out, self.out_channels)


class Decoder(nn.Module):
    """Maps to images of `out_channels`, at twice the height and width per level but the last."""

    levels: tuple[Level, ...]
    middle: Level
    out_channels: int
    resnet: Part
    attention: Part

    @nn.compact
    def __call__(self, z: Images) -> Resized:
        parts, dtype = (self.resnet, self.attention), z.dtype.name
        double = partial(Upsample, name="upsamplers_0")
        x = Conv3x3(self.middle.channels, dtype=dtype, name="conv_in")(z)
        x = MidBlock(self.middle, *parts, name="mid_block")(x, None)
        for i, level in enumerate(self.levels):
            x = Stack(level, *parts, double, name=f"up_blocks_{i}")(x)
        return _output(x, self.middle.groups_out, self.out_channels)


def _output(x: Images, groups: int, channels: int) -> Resized:
    """The calling module's last layers, with SiLU whatever the autoencoder's activation is."""
    dtype = x.dtype.name
    x = nn.silu(GroupNorm(groups, EPS, dtype, name="conv_norm_out")(x))
    return Conv3x3(channels, dtype=dtype, name="conv_out")(x)

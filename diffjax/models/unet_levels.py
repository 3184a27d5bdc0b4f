"""What each level of a U-Net is, from the U-Net's options."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from diffjax.models.unet_blocks import Kind, Level, Levels

if TYPE_CHECKING:
    import diffjax.models.unet

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
PLAIN = Kind()
SKIP_SCALE = 2**0.5  # keeps the variance of a sum of two (Song et al. 2021, sec. 4.1)


def embedding_width(net: Any) -> int:
    """The width of the embedding of time and class, of the U-Net `net`."""
    width: int = net.time_embedding_dim or 4 * net.block_out_channels[0]
    return width


def levels_of(net: "diffjax.models.unet.UNet") -> Levels:
    """Every block that the U-Net has."""
    mid = None if net.mid_block_type is None else _mid_level(net)
    return Levels(tuple(_down_levels(net)), mid, tuple(_up_levels(net)))


def _down_levels(net: "diffjax.models.unet.UNet") -> Iterator[Level]:
    """From the image's size to the smallest."""
    before = (net.block_out_channels[0], *net.block_out_channels)
    for i, block in enumerate(net.down_block_types):
        channels = net.block_out_channels[i]
        inputs = [(before[i], 0)] + [(channels, 0)] * (net.layers_per_block - 1)
        yield _level(net, block, DOWN[block], net.downsample_type, i, inputs, channels)


def _up_levels(net: "diffjax.models.unet.UNet") -> Iterator[Level]:
    """Going up there is a residual block more: it takes the state that the level began with."""
    widths = net.block_out_channels[::-1]
    for i, block in enumerate(net.up_block_types):
        channels, start = widths[i], widths[min(i + 1, len(widths) - 1)]
        x = [widths[max(i - 1, 0)]] + [channels] * net.layers_per_block
        states = [channels] * net.layers_per_block + [start]
        inputs = list(zip(x, states, strict=True))
        yield _level(net, block, UP[block], net.upsample_type, i, inputs, channels)


def _level(
    net: "diffjax.models.unet.UNet",
    block: str,
    kind: Kind,
    resample: str,
    index: int,
    inputs: list[tuple[int, int]],
    channels: int,
) -> Level:
    if kind.attention and not kind.skip:  # the one kind that the option reaches
        kind = dataclasses.replace(kind, resnet=resample == "resnet")
    groups_in = [groups_of(net, sum(pair), kind) for pair in inputs]
    if block == "AttnSkipUpBlock2D":  # published weights were trained with this grouping
        groups_in = [min(x + state // 4, 32) for x, state in inputs]
    return Level(
        block=block,
        kind=kind,
        channels=channels,
        inputs=tuple(map(sum, inputs)),
        groups_in=tuple(groups_in),
        groups_out=groups_of(net, channels, kind),
        head_dim=(net.attention_head_dim or channels) if kind.attention else None,
        attention_groups=32 if kind.skip else net.norm_num_groups,
        out_scale=SKIP_SCALE if kind.skip else 1,
        resamples=index < len(net.block_out_channels) - 1,
    )


def _mid_level(net: "diffjax.models.unet.UNet") -> Level:
    """The block between the way down and the way up."""
    channels = net.block_out_channels[-1]
    groups = groups_of(net, channels)
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


def groups_of(net: "diffjax.models.unet.UNet", channels: int, kind: Kind = PLAIN) -> int:
    """Skip blocks choose their own groups; so do the layers outside where none are given."""
    if kind.skip or net.norm_num_groups is None:
        return min(channels // 4, 32)
    return net.norm_num_groups

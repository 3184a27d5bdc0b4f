"""What each level of a U-Net with cross-attention is, from the U-Net's options."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from diffjax.models.unet_blocks import Kind, Level, Levels, Part

if TYPE_CHECKING:
    import diffjax.models.unet_condition

DOWN = {"DownBlock2D": Kind(), "CrossAttnDownBlock2D": Kind(attention=True)}
UP = {"UpBlock2D": Kind(), "CrossAttnUpBlock2D": Kind(attention=True)}
MID = "UNetMidBlock2DCrossAttn"
KINDS = {**DOWN, **UP, MID: Kind(attention=True)}


@dataclasses.dataclass(frozen=True)
class CrossLevel(Level):
    """A level whose attention is a transformer on tokens. `depths` has one entry an attention."""

    heads: int
    depths: tuple[int, ...]
    cross_only: bool

    def attend(self, attention: Part, index: int) -> Part:
        return partial(
            attention,
            head_dim=self.head_dim,
            groups=self.attention_groups,
            depth=self.depths[index],
            cross_only=self.cross_only,
        )


def per_level(net: "diffjax.models.unet_condition.ConditionalUNet", option: str) -> tuple[Any, ...]:
    """An option's value at each level, from the image's size to the smallest."""
    value = getattr(net, option)
    return value if isinstance(value, tuple) else (value,) * len(net.block_out_channels)


def token_widths(net: "diffjax.models.unet_condition.ConditionalUNet") -> set[int]:
    """The widths of the tokens that blocks attend to: one, in a U-Net that can be built."""
    widths = per_level(net, "cross_attention_dim")
    down = zip(net.down_block_types, widths, strict=True)
    up = zip(net.up_block_types, widths[::-1], strict=True)
    found = {width for block, width in (*down, *up) if KINDS[block].attention}
    return found if net.mid_block_type is None else found | {widths[-1]}


def levels_of(net: "diffjax.models.unet_condition.ConditionalUNet") -> Levels:
    """Every block that the U-Net has."""
    mid = None if net.mid_block_type is None else _mid_level(net)
    return Levels(tuple(_down_levels(net)), mid, tuple(_up_levels(net)))


def _down_levels(net: "diffjax.models.unet_condition.ConditionalUNet") -> Iterator[CrossLevel]:
    """From the image's size to the smallest."""
    widths, layers = net.block_out_channels, per_level(net, "layers_per_block")
    depths = per_level(net, "transformer_layers_per_block")
    for i, block in enumerate(net.down_block_types):
        inputs = (widths[max(i - 1, 0)],) + (widths[i],) * (layers[i] - 1)
        yield _level(net, block, i, inputs, depths[i], i < len(widths) - 1)


def _up_levels(net: "diffjax.models.unet_condition.ConditionalUNet") -> Iterator[CrossLevel]:
    """Going up there is a residual block more: it takes the state that the level began with."""
    widths, layers = net.block_out_channels, per_level(net, "layers_per_block")
    depths = per_level(net, "transformer_layers_per_block")[::-1]
    if net.reverse_transformer_layers_per_block is not None:
        depths = net.reverse_transformer_layers_per_block
    last = len(widths) - 1
    for i, block in enumerate(net.up_block_types):
        level = last - i
        width, count = widths[level], layers[level]
        x = (widths[min(level + 1, last)],) + (width,) * count
        states = (width,) * count + (widths[max(level - 1, 0)],)
        inputs = tuple(map(sum, zip(x, states, strict=True)))
        yield _level(net, block, level, inputs, depths[i], level > 0)


def _mid_level(net: "diffjax.models.unet_condition.ConditionalUNet") -> CrossLevel:
    """The block between the way down and the way up: its pixels always attend to each other."""
    last = len(net.block_out_channels) - 1
    width = net.block_out_channels[last]
    depth = per_level(net, "transformer_layers_per_block")[last]
    level = _level(net, MID, last, (width, width), depth, False)
    return dataclasses.replace(level, cross_only=False, out_scale=net.mid_block_scale_factor)


def _level(
    net: "diffjax.models.unet_condition.ConditionalUNet",
    block: str,
    index: int,
    inputs: tuple[int, ...],
    depth: int | tuple[int, ...],
    resamples: bool,
) -> CrossLevel:
    kind, channels = KINDS[block], net.block_out_channels[index]
    groups, heads = net.norm_num_groups, per_level(net, "attention_head_dim")[index]
    return CrossLevel(
        block=block,
        kind=kind,
        channels=channels,
        inputs=inputs,
        groups_in=(groups,) * len(inputs),
        groups_out=groups,
        head_dim=channels // heads if kind.attention else None,
        attention_groups=groups,
        out_scale=1,
        resamples=resamples,
        heads=heads,
        depths=depth if isinstance(depth, tuple) else (depth,) * len(inputs),
        cross_only=per_level(net, "only_cross_attention")[index],
    )

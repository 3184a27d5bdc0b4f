"""What a U-Net refuses: options that cannot be built, and inputs that do not fit."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from jax import Array
from jaxtyping import Float, Num

from diffjax.errors import UserError
from diffjax.models.layers import ACTIVATIONS
from diffjax.models.unet_blocks import PYRAMID_CHANNELS, Level
from diffjax.models.unet_levels import (
    DOWN,
    UP,
    down_levels,
    embedding_width,
    groups_of,
    mid_level,
    up_levels,
)
from diffjax.typing import Images

if TYPE_CHECKING:
    import diffjax.models.unet

Labels = Num[Array, "B"] | Float[Array, "B E"]
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


def check_options(net: "diffjax.models.unet.UNet") -> None:
    """Raises UserError for an option or a combination that cannot be built."""
    _check_lengths(net)
    _check_choices(net)
    _check_numbers(net)
    _check_blocks(net)


def _check_choices(net: "diffjax.models.unet.UNet") -> None:
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


def _check_numbers(net: "diffjax.models.unet.UNet") -> None:
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


def _check_lengths(net: "diffjax.models.unet.UNet") -> None:
    """Refuses lists of levels of different lengths, or empty."""
    names = ("block_out_channels", "down_block_types", "up_block_types")
    lengths = [len(getattr(net, name)) for name in names]
    if lengths != [lengths[0] or 1] * 3:
        counts = ", ".join(f"{name} has {n}" for name, n in zip(names, lengths, strict=True))
        raise UserError(f"unet: {counts}; they must have one entry a level, the same number")


def _check_blocks(net: "diffjax.models.unet.UNet") -> None:
    """Refuses blocks that do not fit together, and channels that their layers cannot divide."""
    _check_pyramid(net)
    levels = [*down_levels(net), *up_levels(net)]
    if net.mid_block_type is not None:
        levels.append(mid_level(net))
    for level in levels:
        _check_level(net, level)
    _check_division(
        "conv_norm_out", net.block_out_channels[0], groups_of(net, net.block_out_channels[0])
    )
    factor = 2 ** (len(net.block_out_channels) - 1)
    sizes = net.sample_size if isinstance(net.sample_size, tuple) else (net.sample_size,)
    if any(size is not None and (size < 1 or size % factor) for size in sizes):
        raise UserError(
            f"unet(sample_size={net.sample_size}): {len(net.block_out_channels)} levels need "
            f"images of a multiple of {factor} pixels: resize them, or use fewer levels"
        )


def _check_pyramid(net: "diffjax.models.unet.UNet") -> None:
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


def _check_level(net: "diffjax.models.unet.UNet", level: Level) -> None:
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


def check_input(net: "diffjax.models.unet.UNet", x: Images, labels: Labels | None) -> None:
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
        shape = (embedding_width(net),) if net.class_embed_type == "identity" else ()
        if labels.shape[1:] != shape:
            raise UserError(f"cond has shape {labels.shape}: this U-Net takes {(len(x), *shape)}")

"""What a U-Net refuses: options that cannot be built, and inputs that do not fit."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jax import Array
from jaxtyping import Float, Num

from diffjax.errors import UserError
from diffjax.models.layers import ACTIVATIONS
from diffjax.models.unet_blocks import PYRAMID_CHANNELS, Level
from diffjax.models.unet_levels import DOWN, UP, embedding_width, groups_of, levels_of
from diffjax.typing import Images

if TYPE_CHECKING:
    import diffjax.models.unet

Labels = Num[Array, "B"] | Float[Array, "B K"]
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
    "cond_dim",
)


def check_options(net: "diffjax.models.unet.UNet") -> None:
    """Raises UserError for an option or a combination that cannot be built."""
    check_lengths(net)
    check_choices(net, {"down_block_types": DOWN, "up_block_types": UP}, CHOICES)
    check_numbers(net, POSITIVE)
    if net.time_embedding_type == "positional":
        check_shift(net, net.block_out_channels[0])
    _check_embeddings(net)
    _check_blocks(net)


def spec_of(net: Any) -> str:
    """What a spec calls the U-Net `net`."""
    name: str = type(net).__module__.rpartition(".")[2]
    return name


def check_choices(
    net: Any,
    blocks: Mapping[str, Collection[str | None]],
    choices: Mapping[str, Collection[str | None]],
) -> None:
    """Refuses names that are not among the legal ones: of each level, and of the whole U-Net."""
    given = [(name, value, legal) for name, legal in blocks.items() for value in getattr(net, name)]
    given += [(name, getattr(net, name), legal) for name, legal in choices.items()]
    given += [("act_fn", net.act_fn.lower(), ACTIVATIONS)]
    for name, value, legal in given:
        if value not in legal:
            shown = ", ".join(map(repr, legal))
            raise UserError(f"{spec_of(net)} has no {name} {value!r}: choose one of {shown}")


def check_positive(net: Any, names: Collection[str]) -> None:
    """Refuses numbers that are not above 0; an option may be a tuple of numbers, or None."""
    for name in names:
        value = getattr(net, name)
        if any(number is not None and not number > 0 for number in _numbers(value)):
            raise UserError(f"{spec_of(net)}({name}={value}): {name} must be above 0")


def check_numbers(net: Any, positive: Collection[str]) -> None:
    """Refuses numbers out of range, one by one; those called `positive` may be tuples or None."""
    check_positive(net, positive)
    if not 0 <= net.dropout < 1:
        raise UserError(f"{spec_of(net)}(dropout={net.dropout}): dropout must be from 0 to below 1")
    padding = net.downsample_padding
    if padding not in (0, 1):
        raise UserError(f"{spec_of(net)}(downsample_padding={padding}): only 0 and 1 halve images")


def _numbers(value: Any) -> Iterator[Any]:
    """The numbers of tuples in tuples."""
    if not isinstance(value, tuple):
        yield value
        return
    for part in value:
        yield from _numbers(part)


def check_shift(net: Any, width: int) -> None:
    """Refuses a shift of frequencies that leaves none to `width` sines and cosines."""
    if width // 2 <= net.freq_shift:
        raise UserError(
            f"{spec_of(net)}(freq_shift={net.freq_shift}): must be below half of the first width, "
            f"{width // 2}"
        )


def _check_embeddings(net: "diffjax.models.unet.UNet") -> None:
    """Refuses embeddings of time and class that lack a number, or have one too many."""
    if net.spans and net.time_embedding_type != "positional":
        raise UserError(
            f"unet(spans=True, time_embedding_type={net.time_embedding_type!r}): spans are told in "
            "the unit of positional times"
        )
    if net.time_embedding_type == "learned" and net.num_train_timesteps is None:
        raise UserError("unet(time_embedding_type='learned') needs num_train_timesteps")
    check_classes(net)
    if net.cond_dim is not None and (net.class_embed_type or net.num_class_embeds):
        raise UserError(
            f"unet(cond_dim={net.cond_dim}) takes one condition: leave out num_class_embeds and "
            "class_embed_type"
        )


def check_classes(net: Any) -> None:
    """Refuses a table of classes beside another embedding of them."""
    if net.class_embed_type is not None and net.num_class_embeds is not None:
        raise UserError(
            f"{spec_of(net)}(num_class_embeds={net.num_class_embeds}) has no effect with "
            f"class_embed_type={net.class_embed_type!r}: leave one of them out"
        )


def check_lengths(net: Any) -> None:
    """Refuses lists of levels of different lengths, or empty."""
    names = ("block_out_channels", "down_block_types", "up_block_types")
    lengths = [len(getattr(net, name)) for name in names]
    if lengths != [lengths[0] or 1] * 3:
        counts = ", ".join(f"{name} has {n}" for name, n in zip(names, lengths, strict=True))
        raise UserError(
            f"{spec_of(net)}: {counts}; they must have one entry a level, the same number"
        )


def _check_blocks(net: "diffjax.models.unet.UNet") -> None:
    """Refuses blocks that do not fit together, and channels that their layers cannot divide."""
    _check_pyramid(net)
    for level in levels_of(net).all():
        if net.norm_num_groups is None and not level.kind.skip and level.block in DOWN | UP:
            raise UserError(f"unet(norm_num_groups=None): {level.block} needs a number")
        check_level(net, level)
    check_division(
        net, "conv_norm_out", net.block_out_channels[0], groups_of(net, net.block_out_channels[0])
    )
    check_size(net)


def check_size(net: Any) -> None:
    """Refuses a size of images that cannot be halved as often as there are levels."""
    levels = len(net.block_out_channels)
    factor = 2 ** (levels - 1)
    sizes = net.sample_size if isinstance(net.sample_size, tuple) else (net.sample_size,)
    if any(size is not None and (size < 1 or size % factor) for size in sizes):
        raise UserError(
            f"{spec_of(net)}(sample_size={net.sample_size}): {levels} levels need images of "
            f"a multiple of {factor} pixels: resize them, or use fewer levels"
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


def check_level(net: Any, level: Level) -> None:
    """Refuses channels that a block's groups or heads do not divide."""
    for channels, groups in zip(level.inputs, level.groups_in, strict=True):
        check_division(net, level.block, channels, groups)
    check_division(net, level.block, level.channels, level.groups_out)
    if level.head_dim is None:
        return
    if level.attention_groups is not None:
        check_division(net, level.block, level.channels, level.attention_groups)
    if level.channels % level.head_dim:
        raise UserError(
            f"unet(attention_head_dim={level.head_dim}): {level.block} has {level.channels} "
            "channels, not a multiple of it; None means one head"
        )


def check_division(net: Any, block: str, channels: int, groups: int) -> None:
    """Refuses a normalisation whose groups do not divide the channels."""
    if groups < 1 or channels % groups:
        raise UserError(
            f"{spec_of(net)}: {block} would normalise {channels} channels in {groups} groups, "
            "which do not divide them: change block_out_channels or the number of groups"
        )


def check_images(
    net: Any, x: Images | Float[np.ndarray, "B H W C"], network: str = "U-Net", patch: int = 1
) -> None:
    """Refuses images of other channels, or that cannot be halved as often as there are levels.

    Levels halve the squares of `patch` x `patch` pixels.
    """
    check_channels(net, x, network)
    height, width = x.shape[1:3]
    factor = patch * 2 ** (len(net.block_out_channels) - 1)
    if height % factor or width % factor:
        raise UserError(
            f"images are {height}x{width}, and {len(net.block_out_channels)} levels halve them "
            f"{len(net.block_out_channels) - 1} times: resize them to multiples of {factor}, "
            "or use fewer levels"
        )


def check_channels(
    net: Any, x: Images | Float[np.ndarray, "B H W C"], network: str = "U-Net"
) -> None:
    """Refuses images of other channels."""
    channels = x.shape[-1]
    if channels != net.in_channels:
        raise UserError(
            f"images have {channels} channels, the {network} takes {net.in_channels}: "
            f"set in_channels={channels}"
        )


def check_input(net: "diffjax.models.unet.UNet", x: Images, labels: Labels | None) -> None:
    """Refuses images of another kind, and labels where none belong or none are given."""
    check_images(net, x)
    options = (net.class_embed_type, net.num_class_embeds, net.cond_dim)
    takes_labels = any(option is not None for option in options)
    if takes_labels and labels is None:
        told = "classes" if net.cond_dim is None else f"{net.cond_dim} numbers a sample"
        raise UserError(f"this U-Net is conditioned on {told}: give cond")
    if labels is not None and not takes_labels:
        raise UserError("this U-Net takes no condition: set num_class_embeds or give no cond")
    if labels is not None:
        shape = () if net.cond_dim is None else (net.cond_dim,)
        shape = (embedding_width(net),) if net.class_embed_type == "identity" else shape
        if labels.shape[1:] != shape:
            raise UserError(f"cond has shape {labels.shape}: this U-Net takes {(len(x), *shape)}")

"""What a U-Net with cross-attention refuses: options, images and conditions that do not fit."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jax import Array

from diffjax.errors import UserError, listed
from diffjax.models.unet_checks import (
    check_channels,
    check_choices,
    check_classes,
    check_division,
    check_images,
    check_lengths,
    check_level,
    check_numbers,
    check_shift,
    check_size,
)
from diffjax.models.unet_condition_levels import (
    DOWN,
    MID,
    UP,
    levels_of,
    per_level,
    token_widths,
)
from diffjax.models.unet_levels import embedding_width
from diffjax.typing import Images

if TYPE_CHECKING:
    import diffjax.models.unet_condition

CHOICES: dict[str, tuple[str | None, ...]] = {
    "mid_block_type": (MID, None),
    "class_embed_type": (None, "timestep", "identity", "projection"),
    "addition_embed_type": (None, "text_time"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "dtype": (None, "float32", "bfloat16", "float16"),
}
POSITIVE = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "norm_num_groups",
    "norm_eps",
    "mid_block_scale_factor",
    "time_embedding_dim",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "num_class_embeds",
)
# Options with one value, or one for each level.
EACH = (
    "layers_per_block",
    "transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
    "attention_head_dim",
    "cross_attention_dim",
    "only_cross_attention",
)


def check_options(net: "diffjax.models.unet_condition.ConditionalUNet") -> None:
    """Raises UserError for an option or a combination that cannot be built."""
    check_lengths(net)
    _check_each(net)
    check_choices(net, {"down_block_types": DOWN, "up_block_types": UP}, CHOICES)
    check_numbers(net, POSITIVE)
    check_shift(net, net.block_out_channels[0])
    check_classes(net)
    _check_embeddings(net)
    _check_tokens(net)
    _check_levels(net)
    check_size(net)


def _check_each(net: "diffjax.models.unet_condition.ConditionalUNet") -> None:
    """Refuses tuples of options that have not one entry for each level."""
    levels = len(net.block_out_channels)
    for name in EACH:
        value = getattr(net, name)
        if isinstance(value, tuple) and len(value) != levels:
            raise UserError(
                f"unet_condition({name}={value}) has {len(value)} entries, and there are {levels} "
                "levels: give one each"
            )
    depths = per_level(net, "transformer_layers_per_block")
    nested = any(isinstance(depth, tuple) for depth in depths)
    if nested and net.reverse_transformer_layers_per_block is None:
        raise UserError(
            f"unet_condition(transformer_layers_per_block={depths}) names single layers, and going "
            "up there is one more: give reverse_transformer_layers_per_block"
        )


def _check_embeddings(net: "diffjax.models.unet_condition.ConditionalUNet") -> None:
    """Refuses embeddings of a class or of sizes that lack a number."""
    width = net.projection_class_embeddings_input_dim
    sizes, added = net.addition_time_embed_dim, net.addition_embed_type == "text_time"
    if width is None and (added or net.class_embed_type == "projection"):
        name = "addition_embed_type" if added else "class_embed_type"
        raise UserError(
            f"unet_condition({name}={getattr(net, name)!r}) needs "
            "projection_class_embeddings_input_dim"
        )
    if added and (sizes is None or sizes // 2 <= net.freq_shift or sizes >= (width or 0)):
        raise UserError(
            f"unet_condition(addition_time_embed_dim={sizes}): each size is embedded in so many "
            f"numbers, above {2 * net.freq_shift + 1} and below "
            f"projection_class_embeddings_input_dim={width}"
        )


def _check_tokens(net: "diffjax.models.unet_condition.ConditionalUNet") -> None:
    """Refuses blocks that attend to tokens of different widths, or to none."""
    widths = token_widths(net)
    if not widths:
        raise UserError("unet_condition: no block attends to tokens: choose unet")
    if len(widths) > 1:
        raise UserError(
            f"unet_condition(cross_attention_dim={net.cross_attention_dim}): all blocks attend to "
            "the same tokens, of one width"
        )


def _check_levels(net: "diffjax.models.unet_condition.ConditionalUNet") -> None:
    """Refuses blocks whose heads, groups or depths do not fit."""
    for level in levels_of(net).all():
        _check_attention(level)
        check_level(net, level)
    check_division(net, "conv_norm_out", net.block_out_channels[0], net.norm_num_groups)


def _check_attention(level: Any) -> None:
    """Refuses heads that do not divide a level's channels, and attentions without a depth."""
    if not level.kind.attention:
        return
    if level.channels % level.heads:
        raise UserError(
            f"unet_condition(attention_head_dim={level.heads}) is the number of heads, which must "
            f"divide the {level.channels} channels of {level.block}"
        )
    attentions = 1 if level.block == MID else len(level.inputs)
    if len(level.depths) < attentions:
        raise UserError(
            f"unet_condition: {level.block} has {attentions} transformers, and "
            f"transformer_layers_per_block or its reverse has {level.depths}: give one number each"
        )


def check_input(
    net: "diffjax.models.unet_condition.ConditionalUNet", x: Images, cond: Mapping[str, Array]
) -> None:
    """Refuses images of another kind, and conditions that are missing, foreign or misshapen."""
    # With a pixel around it half of an odd map is rounded up, and its double can be cut.
    (check_channels if net.downsample_padding else check_images)(net, x)
    needed = taken_by(net)
    if missing := sorted(needed - cond.keys()):
        raise UserError(f"this U-Net is conditioned on {listed(missing)} too: put it into cond")
    if foreign := sorted(cond.keys() - needed - {"mask"}):
        legal = listed(["mask", *sorted(needed)])
        raise UserError(f"cond has {listed(foreign)}: this U-Net takes {legal}")
    for name, shape in _shapes(net, len(x), cond).items():
        if name in cond and cond[name].shape != shape:
            raise UserError(f"{name} has shape {cond[name].shape}: this U-Net takes {shape}")


def taken_by(net: "diffjax.models.unet_condition.ConditionalUNet") -> set[str]:
    """What the U-Net must be told."""
    names = {"tokens"}
    if net.class_embed_type is not None or net.num_class_embeds is not None:
        names |= {"class_labels"}
    return names | {"text_embeds", "time_ids"} if net.addition_embed_type else names


def _shapes(
    net: "diffjax.models.unet_condition.ConditionalUNet", batch: int, cond: Mapping[str, Array]
) -> dict[str, tuple[int, ...]]:
    """The shapes of all that a U-Net may be told; the number of tokens and sizes is as given."""
    (width,) = token_widths(net)
    length = (*cond["tokens"].shape, 1, 1)[1]
    shapes = {"tokens": (batch, length, width), "mask": (batch, length), "class_labels": (batch,)}
    projected = net.projection_class_embeddings_input_dim or 0
    match net.class_embed_type:
        case "identity":
            shapes["class_labels"] = (batch, embedding_width(net))
        case "projection":
            shapes["class_labels"] = (batch, projected)
    if net.addition_embed_type is not None:
        sizes = (*cond["time_ids"].shape, 1, 1)[1]
        text = projected - sizes * (net.addition_time_embed_dim or 0)
        shapes |= {"time_ids": (batch, sizes), "text_embeds": (batch, text)}
    return shapes

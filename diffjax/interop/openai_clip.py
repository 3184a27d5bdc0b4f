"""CLIP as OpenAI's code and open_clip keep it: tensors under their names, and options."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffjax.errors import UserError
from diffjax.interop import safetensors, torch_script
from diffjax.interop.folders import weights_file
from diffjax.interop.json_files import read_json
from diffjax.interop.towers import built, split_fused
from diffjax.models.clip import CLIP

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# What of a file is no weight: counters, numbers of the network's size, a constant mask.
UNUSED = (
    r"(.*\.)?(num_batches_tracked|input_resolution|context_length|vocab_size|attn_mask"
    r"|position_ids)"
)
HEAD = 64  # channels of an attention head, where the options do not say

# Names from theirs to transformers', the first pattern that fits.
NAMES = (
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"ln_final\.", "text_model.final_layer_norm."),
    (r"transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"text_projection$", "text_projection.weight"),
    (r"visual\.proj$", "visual_projection.weight"),
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"visual\.", "vision_model."),
)
WITHIN_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn": "self_attn",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# Options of open_clip that change what is computed, and the values of those that are read here.
PLAIN: dict[str, tuple[object, ...]] = {
    "ls_init_value": (None,),
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "pos_embed_type": ("learnable",),
    "embed_cls": (False,),
    "no_causal_mask": (False,),
    "proj_bias": (False,),
    "proj_type": ("linear",),
    "timm_model_name": (None,),
    "hf_model_name": (None,),
    "block_type": (None, "default"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}


def load_archive(path: Path, dtype: str) -> tuple[CLIP, dict[str, np.ndarray]]:
    """OpenAI's TorchScript file: the model that the shapes describe, and its tensors."""
    tensors = torch_script.read(path, UNUSED)
    try:
        options = _from_shapes(tensors)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path} holds no weights of OpenAI's CLIP: it lacks {error}") from error
    return _model(path, options, dtype), _renamed(tensors)


def load_folder(folder: Path, weights: Path | None, dtype: str) -> tuple[CLIP, dict]:
    """open_clip's folder: the model that open_clip_config.json describes, and its tensors."""
    path = folder / CONFIG
    options = read_json(path).get("model_cfg")
    if not isinstance(options, dict):
        raise UserError(f"{path} has no model_cfg: it is not of open_clip")
    model = _model(path, options, dtype)
    tensors = safetensors.read(weights or weights_file(folder, WEIGHTS), UNUSED)
    return model, _renamed(tensors)


def _from_shapes(tensors: Mapping[str, np.ndarray]) -> dict[str, object]:
    """The options that open_clip gives to a network of these shapes and OpenAI's activation."""
    if "visual.proj" in tensors:
        width, _, _, patch = tensors["visual.conv1.weight"].shape
        side = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
        vision: dict[str, object] = {
            "layers": _count(tensors, r"visual\.transformer\.resblocks\.(\d+)"),
            "width": width,
            "patch_size": patch,
            "image_size": side * patch,
        }
    else:
        side = round((len(tensors["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
        vision = {
            "layers": [_count(tensors, rf"visual\.layer{i}\.(\d+)") for i in (1, 2, 3, 4)],
            "width": tensors["visual.layer1.0.conv1.weight"].shape[0],
            "image_size": side * 32,
        }
    vocabulary, width = tensors["token_embedding.weight"].shape
    text = {
        "context_length": len(tensors["positional_embedding"]),
        "vocab_size": vocabulary,
        "width": width,
        "heads": width // HEAD,
        "layers": _count(tensors, r"transformer\.resblocks\.(\d+)"),
    }
    embed_dim = tensors["text_projection"].shape[1]
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def _count(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
    found = (re.match(pattern, name) for name in tensors)
    return len({match[1] for match in found if match})


def _model(path: Path, options: Mapping[str, object], dtype: str) -> CLIP:
    vision, text = (_section(path, options, name) for name in ("vision_cfg", "text_cfg"))
    act = "quick_gelu" if options.get("quick_gelu") else "gelu"
    size = options.get("embed_dim")
    if type(size) is not int:
        raise UserError(f"{path}: embed_dim={size!r} is not a whole number")
    towers = {
        "vision_model": _vision(path, vision, act, size, dtype),
        "text_model": _text(path, text, act, dtype),
    }
    biased = options.get("init_logit_bias") is not None
    return built(path, towers, projection_dim=size, bias=biased)


def _section(path: Path, options: Mapping[str, object], name: str) -> dict[str, object]:
    section = options.get(name)
    if not isinstance(section, dict):
        raise UserError(f"{path} has no {name}: it is not of a CLIP of open_clip")
    for option, legal in PLAIN.items():
        if section.get(option, legal[0]) not in legal:
            raise UserError(
                f"{path}: {name} has {option}={section[option]!r}, which is not supported: load "
                "the model in transformers' form, where there is one"
            )
    return section


def _vision(
    path: Path, options: Mapping[str, object], act: str, size: object, dtype: str
) -> tuple[str, dict[str, object]]:
    layers, width = options.get("layers", 12), options.get("width", 768)
    shared = {"image_size": options.get("image_size", 224), "dtype": dtype}
    head = options.get("head_width", HEAD)
    if isinstance(layers, list):
        heads = _times(path, "width", width, 32) // _times(path, "head_width", head, 1)
        return "clip_resnet", {
            "layers": tuple(layers),
            "width": width,
            "num_attention_heads": heads,
            "embed_dim": size,
            **shared,
        }
    if options.get("pool_type", "tok") != "tok":
        raise UserError(f"{path}: vision_cfg has pool_type={options['pool_type']!r}, not 'tok'")
    return "clip_vision", {
        **_transformer(path, options, width, layers, act),
        "num_attention_heads": _times(path, "width", width, 1)
        // _times(path, "head_width", head, 1),
        "patch_size": options.get("patch_size", 16),
        **shared,
    }


def _text(
    path: Path, options: Mapping[str, object], act: str, dtype: str
) -> tuple[str, dict[str, object]]:
    pool = options.get("pool_type", "argmax")
    if pool not in ("argmax", "eos"):
        raise UserError(f"{path}: text_cfg has pool_type={pool!r}, not 'argmax' or 'eos'")
    width, layers = options.get("width", 512), options.get("layers", 12)
    return "clip_text", {
        **_transformer(path, options, width, layers, act),
        "num_attention_heads": options.get("heads", 8),
        "vocab_size": options.get("vocab_size", 49408),
        "max_position_embeddings": options.get("context_length", 77),
        "eos_token_id": options.get("eos_id", 2) if pool == "eos" else 2,
        "dtype": dtype,
    }


def _transformer(
    path: Path, options: Mapping[str, object], width: object, layers: object, act: str
) -> dict[str, object]:
    norm, gelu = options.get("norm_kwargs") or {}, options.get("act_kwargs") or {}
    if not isinstance(norm, dict) or norm.keys() - {"eps"}:
        raise UserError(f"{path}: norm_kwargs={norm!r} has more than eps")
    if gelu not in ({}, {"approximate": "tanh"}) or (gelu and act != "gelu"):
        raise UserError(f"{path}: act_kwargs={gelu!r} is not supported")
    return {
        "hidden_size": width,
        "intermediate_size": int(_times(path, "width", width, options.get("mlp_ratio", 4.0))),
        "num_hidden_layers": layers,
        "hidden_act": "gelu_pytorch_tanh" if gelu else act,
        "layer_norm_eps": norm.get("eps", 1e-5),
    }


def _times(path: Path, name: str, value: object, factor: object) -> int | float:
    """The product of two numbers of the file, seen to be such and above 0."""
    product: int | float = 1
    for number in (value, factor):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < 1e9:
            raise UserError(f"{path}: {name} or what scales it is {number!r}, not a number above 0")
        product *= number
    return product


def _renamed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors under transformers' names and in their layout."""
    found = {}
    is_vit = "visual.class_embedding" in tensors
    for name, value in tensors.items():
        new = _new_name(name.removeprefix("text."))  # open_clip's, where the towers are alike
        if new == "vision_model.conv1.weight" and is_vit:
            new = "vision_model.embeddings.patch_embedding.weight"
        # Used as x @ W there, and by a dense layer here.
        is_projection = new.endswith("_projection.weight") and value.ndim == 2
        found[new] = value.T if is_projection else value
    return split_fused(found)


def _new_name(name: str) -> str:
    for pattern, new in NAMES:
        name, count = re.subn(rf"^{pattern}", new, name)
        if count:
            break
    inner = "|".join(map(re.escape, WITHIN_LAYERS))
    pattern = rf"(?<=encoder\.layers\.)(\d+)\.({inner})(?=\.)"
    return re.sub(pattern, lambda match: f"{match[1]}.{WITHIN_LAYERS[match[2]]}", name)

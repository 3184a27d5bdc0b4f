"""Towers of CLIP and SigLIP from options that a file gives, and attention weights kept as one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.clip import CLIP

Described = tuple[str, Mapping[str, object]]  # a tower: the name of its spec, and its options


def built(path: Path, towers: Mapping[str, Described], projection_dim: object, bias: bool) -> CLIP:
    """The model of these towers. Raises UserError, naming the file, for what cannot be built."""
    if projection_dim is not None and type(projection_dim) is not int:
        raise UserError(f"{path}: projection_dim={projection_dim!r} is not a whole number")
    try:
        modules = {name: _tower(*tower) for name, tower in towers.items()}
        vision, text = modules.get("vision_model"), modules.get("text_model")
        return CLIP(vision, text, projection_dim, bias)
    except UserError as error:
        raise UserError(f"{path}: {error}", error.option) from error


def _tower(name: str, options: Mapping[str, object]) -> Any:
    text = ", ".join(f"{option}={value!r}" for option, value in options.items())
    return spec.build(f"{name}({text})", diffjax.models)


def split_fused(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torch's in_proj_weight and in_proj_bias as q_proj, k_proj and v_proj."""
    found = {}
    for name, value in tensors.items():
        match = re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name)
        if match is None or value.ndim == 0 or len(value) % 3:
            found[name] = value
            continue
        for part, third in zip("qkv", np.split(value, 3), strict=True):
            found[f"{match[1]}{part}_proj.{match[2]}"] = third
    return found


def fuse(tensors: Mapping[str, np.ndarray], module: str) -> dict[str, np.ndarray]:
    """The inverse of split_fused, for the attention of the name `module`."""
    found = dict(tensors)
    for kind in ("weight", "bias"):
        thirds = [found.pop(f"{module}.{part}_proj.{kind}") for part in "qkv"]
        found[f"{module}.in_proj_{kind}"] = np.concatenate(thirds)
    return found

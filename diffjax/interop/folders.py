"""Folders in which diffusers and transformers keep a model: config.json beside its weights."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffjax.errors import UserError
from diffjax.interop.safetensors import encode, write

CONFIG = "config.json"


def weights_file(folder: Path, name: str) -> Path:
    """The file of the weights: that of a variant, such as fp16, where there is no other."""
    path = folder / name
    if list(folder.glob(f"{name}*")):
        return path
    variants = sorted(folder.glob(f"{path.stem}.*{path.suffix}"))
    if len(variants) > 1:
        names = ", ".join(variant.name for variant in variants)
        raise UserError(f"no {path}, and several variants ({names}): rename one to {name}")
    pickles = [] if variants else sorted(folder.glob("*.bin"))
    if pickles:
        raise UserError(
            f"{pickles[0]} is a Python pickle, which can run code: "
            "save the model again with safe_serialization=True"
        )
    return variants[0] if variants else path


def write_model(
    folder: Path, name: str, tensors: Mapping[str, np.ndarray], config: Mapping[str, object]
) -> None:
    """Writes the weights and config.json, each whole or not at all.

    Raises UserError for a folder that cannot be written, and one with weights in several files.
    """
    if (folder / f"{name}.index.json").exists():
        raise UserError(f"{folder} holds a model in several files: choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    write(folder / name, encode(tensors))
    write(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())

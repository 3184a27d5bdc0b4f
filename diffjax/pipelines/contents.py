"""What a folder in diffusers' layout holds, known before any weights are read."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from diffjax.errors import UserError, listed
from diffjax.interop.json_files import read_json

INDEX = "model_index.json"
FAMILIES = ("StableDiffusion", "StableDiffusionXL")
PIPELINES = {
    f"{family}{kind}Pipeline": family for family in FAMILIES for kind in ("", "Img2Img", "Inpaint")
}
# The classes that a part may be of; any scheduler, whose own file names it.
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
PARTS: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": TOKENIZERS,
    "scheduler": (),
}
SECOND: dict[str, tuple[str, ...]] = {
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer_2": TOKENIZERS,
}
CHECKER = "safety_checker"
# Parts that compute nothing of an image: the checker reads finished ones, the others serve it and
# an adapter.
UNUSED = (CHECKER, "feature_extractor", "image_encoder")
SINGLE = (".safetensors", ".ckpt", ".pt", ".bin")


class Contents(NamedTuple):
    """A folder whose parts are all there.

    encoders: the names of its text encoders. zeros: a missing negative prompt is told as zeros.
    """

    folder: Path
    encoders: tuple[str, ...]
    zeros: bool

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that have weights, in the order in which they are read."""
        return ("unet", "vae", *self.encoders)

    def tokenizer(self, encoder: str) -> Path:
        """The folder of a text encoder's tokenizer."""
        return self.folder / encoder.replace("text_encoder", "tokenizer")


def contents_of(folder: Path) -> Contents:
    """What the folder's model_index.json lists.

    Warns of a safety checker, which is not run. Raises UserError for what is no pipeline of Stable
    Diffusion, and for a part that is missing, unknown or of another class.
    """
    if folder.suffix in SINGLE and folder.is_file():
        raise UserError(f"{folder} is a single file: give a folder in diffusers' layout")
    if not (folder / INDEX).is_file():
        raise UserError(f"{folder} has no {INDEX}: give a folder in diffusers' layout")
    index = read_json(folder / INDEX)
    family = PIPELINES.get(str(index.get("_class_name")))
    if family is None:
        found, legal = index.get("_class_name"), listed([*PIPELINES])
        raise UserError(f"{folder / INDEX} is of a {found}, not one of {legal}")
    two = family == "StableDiffusionXL"
    _check_parts(folder, index, PARTS | SECOND if two else PARTS)
    if _class_of(index, CHECKER) is not None:
        warnings.warn(f"{folder}: its safety checker is not run on the images", stacklevel=3)
    encoders = ("text_encoder", "text_encoder_2") if two else ("text_encoder",)
    zeros = two and index.get("force_zeros_for_empty_prompt") is not False
    return Contents(folder, encoders, zeros)


def _check_parts(
    folder: Path, index: Mapping[str, object], needed: Mapping[str, tuple[str, ...]]
) -> None:
    path = folder / INDEX
    found = {name: kind for name in index if (kind := _class_of(index, name)) is not None}
    if unknown := sorted(found.keys() - needed.keys() - set(UNUSED)):
        raise UserError(f"{path} has {listed(unknown)}, which is not supported: remove this part")
    for name, classes in needed.items():
        kind = found.get(name)
        if kind is None or not (folder / name).is_dir():
            where = "names no" if kind is None else f"names {name}, and {folder} has no folder"
            raise UserError(f"{path} {where} {name}: download the whole pipeline")
        if classes and kind not in classes:
            raise UserError(f"{path}: {name} is a {kind}, not a {' or '.join(classes)}")


def _class_of(index: Mapping[str, object], name: str) -> str | None:
    """The class of a part; None for a part that is left out, and for what is no part."""
    entry = index.get(name)
    if isinstance(entry, list) and len(entry) == 2 and entry[1] is not None:
        return str(entry[1])
    return None

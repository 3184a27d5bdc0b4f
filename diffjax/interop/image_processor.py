"""CLIP's preprocessing of images, with the numbers of a folder that transformers saved."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from diffjax.data.clip_images import MEAN, STD, ImageProcessor
from diffjax.errors import UserError
from diffjax.interop.json_files import read_json

CONFIG = "preprocessor_config.json"
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
LARGEST = 2**12  # pixels along an edge


def load_image_processor(folder: str | os.PathLike[str] | None = None) -> ImageProcessor:
    """CLIP's preprocessing: a function from a list of pictures to float32 (N, 224, 224, 3).

    The pictures are PIL images or uint8 arrays (H, W, C). The sizes, the filter, the mean and the
    standard deviation are those of `preprocessor_config.json` in the folder; without a folder, they
    are OpenAI's. Raises UserError for a file that is missing or damaged, and for options that are
    not CLIP's.
    """
    if folder is None:
        return ImageProcessor()
    path = Path(folder).expanduser() / CONFIG
    inner = path.parent / "feature_extractor"
    if not path.is_file() and (inner / CONFIG).is_file():
        raise UserError(f"{path.parent} is a whole pipeline: load {inner}")
    config = read_json(path)
    try:
        return _processor(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _processor(config: Mapping[str, Any]) -> ImageProcessor:
    for step in STEPS:
        if config.get(step, True) is not True:
            raise UserError(f"{step}={config[step]!r} is not supported, only true")
    factor = config.get("rescale_factor", 1 / 255)
    if not _is_number(factor) or abs(factor * 255 - 1) > 1e-6:
        raise UserError(f"rescale_factor={factor!r} is not supported, only 1/255")
    return ImageProcessor(
        edge=_edge(config.get("size", 224)),
        crop=_crop(config.get("crop_size", 224)),
        mean=_channels("image_mean", config.get("image_mean", MEAN)),
        std=_channels("image_std", config.get("image_std", STD)),
        resample=_filter(config.get("resample", 3)),
    )


def _edge(size: Any) -> int:
    """The length of the shorter edge, which older releases write alone."""
    edge = size.get("shortest_edge") if isinstance(size, dict) and len(size) == 1 else size
    return _checked_length("size", edge)


def _crop(size: Any) -> tuple[int, int]:
    """Height and width; older releases write one number for both."""
    pair = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    return _checked_length("crop_size", pair[0]), _checked_length("crop_size", pair[1])


def _checked_length(option: str, length: Any) -> int:
    if type(length) is not int or not 1 <= length <= LARGEST:
        raise UserError(f"{option} has {length!r}, which is no length from 1 to {LARGEST}")
    return length


def _channels(option: str, values: Any) -> tuple[float, float, float]:
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
        raise UserError(f"{option}={values!r} must be three numbers")
    red, green, blue = map(float, values)
    return red, green, blue


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _filter(number: Any) -> Image.Resampling:
    """Pillow's filter of this number: 3 is bicubic."""
    try:
        return Image.Resampling(number)
    except ValueError as error:
        raise UserError(f"resample={number!r} is no filter of Pillow") from error

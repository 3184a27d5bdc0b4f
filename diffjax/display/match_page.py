"""A page to try a CLIP on: a caption's nearest pictures, and a picture's nearest captions."""

import base64
import dataclasses
import io
import math
import os
from collections.abc import Sequence
from typing import Any

import einops
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from diffjax.display.template import data_url, fill
from diffjax.files import write_text

LARGEST_CELL, SMALLEST_CELL = 96, 32  # pixels: larger pictures are reduced, more so where many
SHEET = 4_000_000  # pixels of all cells together, unless each has the smallest size
ROOM = 3_500_000  # bytes of embeddings and pictures together, which base64 makes a third larger
LEAST_ROOM = 1_000_000  # of them for pictures
QUALITIES = (90, 75, 60, 40)  # of JPEG, where a PNG has no room


@dataclasses.dataclass(frozen=True)
class MatchPage:
    """Pictures and texts in one space. Row i of the embeddings is picture i, or text i.

    `captions` are the pictures' own, "" where there is none; `texts` are those to choose from.
    Embeddings have any length. `logit_scale` is the factor from cosine to logit. Raises ValueError
    for counts that do not fit, nothing to show, and numbers that are not finite.
    """

    title: str
    subtitle: str
    images: UInt8[np.ndarray, "N H W C"]
    captions: Sequence[str]
    texts: Sequence[str]
    image_embeddings: Float[np.ndarray, "N D"]
    text_embeddings: Float[np.ndarray, "M D"]
    logit_scale: float

    def __post_init__(self) -> None:
        counts = {len(self.images), len(self.captions), len(self.image_embeddings)}
        if len(counts) > 1 or len(self.texts) != len(self.text_embeddings):
            raise ValueError(
                f"{len(self.images)} images, {len(self.captions)} captions and "
                f"{len(self.image_embeddings)} embeddings, or {len(self.texts)} texts and "
                f"{len(self.text_embeddings)} embeddings: counts differ"
            )
        if not len(self.images) or not self.texts:
            raise ValueError("a page needs a picture and a text")
        if self.images.shape[-1] not in (1, 3):
            raise ValueError(f"images have {self.images.shape[-1]} channels: 1 or 3 can be shown")
        for numbers in (self.image_embeddings, self.text_embeddings, self.logit_scale):
            if not np.isfinite(numbers).all():
                raise ValueError("embeddings or logit_scale are not finite")


def render_match(page: MatchPage) -> str:
    """The page as HTML. Text is escaped, wherever it comes from."""
    width = page.image_embeddings.shape[1]
    room = ROOM - 2 * width * (len(page.images) + len(page.texts))
    cells = _cells(page.images)
    columns = math.ceil(math.sqrt(len(cells)))
    data: dict[str, Any] = {
        "captions": list(page.captions),
        "texts": list(page.texts),
        "dimensions": width,
        "images": _packed(page.image_embeddings),
        "words": _packed(page.text_embeddings),
        "scale": float(page.logit_scale),
        "columns": columns,
        "height": cells.shape[1],
        "width": cells.shape[2],
    }
    return fill(
        "match.html", page=page, data=data, sheet=_sheet(cells, columns, max(room, LEAST_ROOM))
    )


def save_match_page(path: str | os.PathLike[str], page: MatchPage) -> None:
    """Writes the page, whole or not at all. Raises OSError where it cannot be written."""
    write_text(path, render_match(page))


def _packed(embeddings: Float[np.ndarray, "N D"]) -> str:
    """Unit vectors as little-endian float16, in base64: a cosine is off by 0.0002 at most."""
    rows = embeddings.astype(np.float64)
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return base64.b64encode(unit.astype("<f2").tobytes()).decode()


def _cells(images: UInt8[np.ndarray, "N H W C"]) -> UInt8[np.ndarray, "N h w C"]:
    """The images, reduced where they are larger than a cell may be."""
    height, width, channels = images.shape[1:]
    side = int(np.clip(math.sqrt(SHEET / len(images)), SMALLEST_CELL, LARGEST_CELL))
    factor = side / max(height, width)
    if factor >= 1:
        return images
    size = (max(1, round(width * factor)), max(1, round(height * factor)))

    def reduced(image: UInt8[np.ndarray, "H W C"]) -> np.ndarray:
        small = _picture(image).resize(size, Image.Resampling.LANCZOS)
        return np.asarray(small).reshape(size[1], size[0], channels)

    return np.stack([reduced(image) for image in images])


def _sheet(cells: UInt8[np.ndarray, "N H W C"], columns: int, room: int) -> str:
    """All cells in one picture, row by row: a PNG, or where that has no room the best JPEG."""
    rows = math.ceil(len(cells) / columns)
    padded = np.pad(cells, ((0, rows * columns - len(cells)), (0, 0), (0, 0), (0, 0)))
    sheet = _picture(einops.rearrange(padded, "(r k) h w c -> (r h) (k w) c", r=rows))
    file = _saved(sheet, format="PNG", optimize=True)
    if len(file) <= room:
        return data_url(file)
    for quality in QUALITIES:
        file = _saved(sheet, format="JPEG", quality=quality)
        if len(file) <= room:
            break
    return data_url(file, "jpeg")


def _picture(image: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _saved(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, **options)
    return file.getvalue()

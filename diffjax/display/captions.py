"""Pictures with a text under each."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

CELL, LETTER, LINE, LINES = 120, 6, 12, 3  # pixels, and lines at most
GAP = 8


def captioned(
    images: UInt8[np.ndarray, "N H W C"], texts: Sequence[str], columns: int | None = None
) -> Image.Image:
    """N images in one picture, near square unless columns are given, with a text under each.

    A text of more than three lines is cut. Letters that Pillow's own font lacks are question marks.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    zoom = max(1, CELL // max(height, width))
    wide, high = max(width * zoom, CELL) + GAP, height * zoom + LINES * LINE + GAP
    sheet = Image.new("RGB", (columns * wide, math.ceil(count / columns) * high), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default_imagefont()
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        x, y = i % columns * wide + GAP // 2, i // columns * high + GAP // 2
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        resized = picture.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        sheet.paste(resized, (x + (wide - GAP - width * zoom) // 2, y))
        said = text.encode("latin-1", "replace").decode("latin-1")
        shown = textwrap.wrap(said, (wide - GAP) // LETTER, max_lines=LINES, placeholder=" ...")
        for number, line in enumerate(shown):
            draw.text((x, y + height * zoom + number * LINE), line, fill="black", font=font)
    return sheet

"""Grids of images, and films of them, by Pillow."""

import io
import math
import os
import pathlib
from collections.abc import Sequence

import einops
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from diffjax.display.captions import captioned
from diffjax.display.marks import Drawn, png_info
from diffjax.files import write_whole

SMALLEST_CELL = 56  # pixels: smaller images are enlarged by a whole factor, or nobody sees them
GAP = 2


def grid(images: UInt8[np.ndarray, "N H W C"], columns: int | None = None) -> Image.Image:
    """N images of one or three channels in one picture, near square unless columns are given."""
    count, height, width, _ = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    zoom = max(1, SMALLEST_CELL // max(height, width))
    cells = einops.repeat(images, "n h w c -> n (h a) (w b) c", a=zoom, b=zoom)
    blank = ((0, rows * columns - count), (GAP // 2,) * 2, (GAP // 2,) * 2, (0, 0))
    cells = np.pad(cells, blank, constant_values=255)
    sheet = einops.rearrange(cells, "(r k) h w c -> (r h) (k w) c", r=rows)
    return Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)


def save_grid(
    path: str | os.PathLike[str], images: UInt8[np.ndarray, "N H W C"], texts: Sequence[str] = ()
) -> None:
    """Writes a grid of drawn images as a PNG; with texts, one under each image."""
    save_picture(path, sheet_of(images, texts))


def sheet_of(images: UInt8[np.ndarray, "N H W C"], texts: Sequence[str]) -> Image.Image:
    """A grid; with texts, one under each image."""
    return captioned(images, texts) if texts else grid(images)


def save_picture(path: str | os.PathLike[str], sheet: Image.Image, drawn: Drawn = "all") -> None:
    """Writes a PNG, whole or not at all, with the mark in force.

    drawn: how much of the picture a model has drawn.
    """
    info = png_info(drawn)
    write_whole(path, lambda part: sheet.save(part, format="PNG", pnginfo=info))


def save_images(
    folder: str | os.PathLike[str], images: UInt8[np.ndarray, "N H W C"]
) -> list[pathlib.Path]:
    """Writes each drawn image as a PNG of its own size, 00000.png and so on; returns the paths.

    The folder is this function's own: other PNGs that are called by a number are removed.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.png"):
        if path.stem.isdecimal():
            path.unlink()
    paths = [folder / f"{i:05d}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        save_picture(path, Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image))
    return paths


def save_film(
    path: str | os.PathLike[str], film: UInt8[np.ndarray, "F N H W C"], seconds: float = 4.0
) -> None:
    """Writes a film as an animated GIF that lasts `seconds` and rests on its last frame."""
    frames = [grid(frame) for frame in film]
    pace = max(20, round(1000 * seconds / len(frames)))
    durations = [pace] * (len(frames) - 1) + [1500]

    def write(part: pathlib.Path) -> None:
        frames[0].save(
            part,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
        )

    write_whole(path, write)


def read_film(path: str | os.PathLike[str]) -> list[bytes]:
    """The frames of an animated GIF, each as a PNG. Raises OSError for a file that is none."""
    frames = []
    with Image.open(path) as film:
        for frame in ImageSequence.Iterator(film):
            image = frame.convert("L" if frame.mode == "L" else "RGB")
            png = io.BytesIO()
            image.save(png, format="PNG", compress_level=1)  # noise hardly compresses: save time
            frames.append(png.getvalue())
    return frames

"""Pictures as files hold them, wherever they lie: their headers, the form of all, their pixels."""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from diffjax.data import images
from diffjax.data.bad import BadRecord, Tally
from diffjax.errors import UserError

DECODED_ON_OPEN = 1000
Opener = Callable[[int], AbstractContextManager[Image.Image]]  # as images.opened, by number


class Header(NamedTuple):
    """What is known of a picture before its pixels are decoded."""

    name: str
    size: tuple[int, int]  # width and height, after the turn that EXIF asks for
    grey: bool


def headers(names: Sequence[str], opened: Opener, max_bad_records: int) -> list[Header]:
    """The headers of all pictures but the damaged ones; the first 1,000 are decoded.

    Raises UserError for more damaged ones than `max_bad_records`, for decompression bombs, and
    where no picture can be read.
    """
    tally = Tally(max_bad_records)
    found = []

    def read(index: int) -> Header | BadRecord:
        return _header(names[index], opened, index)

    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, header in enumerate(pool.map(read, range(len(names)))):
            if isinstance(header, Header):
                found.append(header)
            else:
                tally.add(index, header)
    if not found:
        raise UserError(f"none of the {len(names)} images can be read: replace the data")
    return found


def form(headers: Sequence[Header], image_size: int | None) -> tuple[int, int, int]:
    """The form in which all pictures can be given out: grey where all are, else in colour.

    Raises UserError where they differ in size and no `image_size` is given.
    """
    first = headers[0]
    other = next((header for header in headers if header.size != first.size), None)
    if other and image_size is None:
        raise UserError(
            f"images differ in size: {first.name} is {first.size[0]}x{first.size[1]} and "
            f"{other.name} is {other.size[0]}x{other.size[1]}: give an image_size",
            option="image_size",
        )
    channels = 1 if all(header.grey for header in headers) else 3
    return images.shape((first.size[1], first.size[0], channels), image_size)


def pixels(image: Image.Image, form: tuple[int, int, int]) -> np.ndarray:
    """An opened picture, turned as EXIF asks, as float32 in [-1, 1] of the form (H, W, 1 or 3)."""
    # JPEGs are decoded at a half, quarter or eighth, if still twice as large as needed.
    image.draft(None, (2 * max(form[:2]),) * 2)
    return images.from_image(ImageOps.exif_transpose(image), form)


def _header(name: str, opened: Opener, index: int) -> Header | BadRecord:
    try:
        with opened(index) as image:
            # getexif would decode the whole of a PNG that has none ahead of its pixels.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            size = image.size if exif.get(ExifTags.Base.Orientation, 1) < 5 else image.size[::-1]
            header = Header(name, size, images.is_grey(image))
            if index < DECODED_ON_OPEN:
                image.draft(None, (1, 1))  # all of a JPEG is read, but little of it computed
                image.load()
    except BadRecord as error:
        return error
    return header

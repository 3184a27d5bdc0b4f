"""From any picture to float32 HWC in [-1, 1]: the one place that decodes, crops and scales."""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

from diffjax.data.bad import BadRecord
from diffjax.errors import UserError

# Whatever its name says, no file goes to the decoders of other formats.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


@contextlib.contextmanager
def opened(
    file: os.PathLike[str] | io.BytesIO | io.BufferedReader, name: str, remedy: str
) -> Iterator[Image.Image]:
    """The picture in a file, called `name` in errors; its pixels are not decoded yet.

    Raises BadRecord, within the context too, where the file is damaged, and UserError where its
    contents would grow past Pillow's limits, which is no accident.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise Image.DecompressionBombError(
                    f"{image.width}x{image.height} pixels, could be a decompression bomb"
                )
            if image.mode in ("I", "F"):
                raise ValueError("its pixels have 32 bits, of no known range")
            yield image
    except Exception as error:  # what Pillow raises depends on where a file is damaged
        what = f"cannot read {name} ({reason(error)})"
        if _is_bomb(error):
            raise UserError(f"{what}: {remedy}") from error
        raise BadRecord(what, remedy) from error


def reason(error: Exception) -> str:
    """What the error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _is_bomb(error: Exception) -> bool:
    """Whether a few bytes ask for a large picture, or for a large text in a PNG."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return True
    return any(limit in str(error) for limit in ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY"))


def shape(native: Sequence[int], image_size: int | None) -> tuple[int, int, int]:
    """The form (height, width, channels) in which pictures of a native form are given out.

    A square of `image_size` where that is given; alpha, the second or fourth channel, goes. Raises
    UserError for a size below 1.
    """
    height, width, channels = native
    channels = 1 if channels < 3 else 3
    if image_size is None:
        return height, width, channels
    if image_size < 1:
        raise UserError(f"image_size is {image_size}: choose 1 or more", "image_size")
    return image_size, image_size, channels


def from_array(pixels: np.ndarray, form: tuple[int, int, int]) -> np.ndarray:
    """uint8 HWC with 1 to 4 channels to float32 in [-1, 1] of the form (H, W, 1 or 3)."""
    if pixels.shape == form:
        return scaled(pixels)
    return from_image(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), form)


def from_image(image: Image.Image, form: tuple[int, int, int]) -> np.ndarray:
    """A picture of any mode to float32 in [-1, 1] of the form (H, W, 1 for grey or 3 for colour).

    The largest centred part with the proportions of the form is resized to it, with antialiasing.
    """
    height, width, channels = form
    image = _flattened(image).convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return scaled(np.asarray(image).reshape(form))


def is_grey(image: Image.Image) -> bool:
    """Whether the picture's mode has no colour."""
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16")


def _flattened(image: Image.Image) -> Image.Image:
    """8 bits a channel and no alpha: the upper 8 of 16 bits, transparent parts on white."""
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey at 255 when it converts; of 16-bit colour it takes these bits.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def scaled(pixels: np.ndarray) -> np.ndarray:
    """uint8 of any shape to float32 in [-1, 1]."""
    values = pixels.astype(np.float32)
    values /= 127.5
    values -= 1
    return values


def to_uint8(images: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Images in [-1, 1] as bytes; what lies outside is clipped."""
    return np.clip(np.round((images + 1) * 127.5), 0, 255).astype(np.uint8)


def to_rgb(picture: Image.Image | np.ndarray) -> Image.Image:
    """A picture of any mode, or uint8 HW or HWC with 1 to 4 channels, in RGB without alpha.

    Raises UserError for other arrays, and for pictures without pixels.
    """
    if not isinstance(picture, Image.Image):
        picture = _from_bytes(np.asarray(picture))
    if 0 in picture.size:
        raise UserError(f"a picture of {picture.width}x{picture.height} has no pixels")
    return _flattened(picture).convert("RGB")


def _from_bytes(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or not 1 <= pixels.shape[-1] <= 4:
        raise UserError(
            f"an array of {pixels.dtype} {pixels.shape} is no picture: give uint8 (H, W, C)"
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

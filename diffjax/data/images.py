"""From any picture to float32 HWC in [-1, 1]: the one place that crops, resizes and scales."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from diffjax.errors import UserError


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
        raise UserError(f"image_size is {image_size}: pass --image_size=1 or more")
    return image_size, image_size, channels


def from_array(pixels: np.ndarray, form: tuple[int, int, int]) -> np.ndarray:
    """uint8 HWC with 1 to 4 channels to float32 in [-1, 1] of the form (H, W, 1 or 3)."""
    if pixels.shape == form:
        return _scaled(pixels)
    return from_image(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), form)


def from_image(image: Image.Image, form: tuple[int, int, int]) -> np.ndarray:
    """A picture of any mode to float32 in [-1, 1] of the form (H, W, 1 for grey or 3 for colour).

    The largest centred part with the proportions of the form is resized to it, with antialiasing.
    """
    height, width, channels = form
    image = _flattened(image).convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return _scaled(np.asarray(image).reshape(form))


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


def _scaled(pixels: np.ndarray) -> np.ndarray:
    scaled = pixels.astype(np.float32)
    scaled /= 127.5
    scaled -= 1
    return scaled

"""What happens to published images, by which a mark may be lost, or got."""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter
from PIL.Image import Resampling

Pixels = UInt8[np.ndarray, "N H W C"]
Change = Callable[[Image.Image], Image.Image]


def _jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=quality)
        return Image.open(file)

    return change


def _cropped(image: Image.Image, share: float = 0.75) -> Image.Image:
    """The middle, of this share of the area, as large as the whole."""
    width, height = image.size
    left, top = (round(side * (1 - share**0.5) / 2) for side in (width, height))
    middle = image.crop((left, top, width - left, height - top))
    return middle.resize(image.size, Resampling.BICUBIC)


def _halved(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.resize((width // 2, height // 2), Resampling.BICUBIC).resize(
        image.size, Resampling.BICUBIC
    )


def _noisy(image: Image.Image, std: float = 0.1) -> Image.Image:
    """Gaussian noise of this standard deviation of the range of brightness, by the image's own."""
    pixels = np.asarray(image)
    noise = np.random.default_rng(int(pixels.sum())).normal(0, 255 * std, pixels.shape)
    return Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))


def _turned(degrees: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        corner = image.getpixel((0, 0))
        return image.rotate(degrees, Resampling.BICUBIC, fillcolor=corner)

    return change


CHANGES: dict[str, Change] = {
    "none": lambda image: image,
    "JPEG, quality 75": _jpeg(75),
    "JPEG, quality 25": _jpeg(25),
    "cropped to 75% of the area": _cropped,
    "turned by 10 degrees": _turned(10),
    "turned by 75 degrees": _turned(75),
    "blurred by 1 pixel": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "noise of 10%": _noisy,
    "halved and doubled": _halved,
}


def changed(images: Pixels, change: Change) -> Pixels:
    """Each image after the change, in its old size and number of channels."""
    grey = images.shape[-1] == 1
    made = []
    for image in images:
        picture = change(Image.fromarray(image[..., 0] if grey else image))
        pixels = np.asarray(picture.convert("L" if grey else "RGB"))
        made.append(pixels[..., None] if grey else pixels)
    return np.stack(made)


def common_pattern(marked: Pixels, others: Pixels) -> Float[np.ndarray, "H W C"]:
    """What marked images share and others lack, in levels of brightness.

    The difference of the means of both (Yang et al. 2024, "Can simple averaging defeat modern
    watermarks?"): it needs no model.
    """
    return marked.mean(0, dtype=np.float64) - others.mean(0, dtype=np.float64)


def shifted(images: Pixels, pattern: Float[np.ndarray, "H W C"]) -> Pixels:
    """The pattern added to each image; what leaves the range of brightness is cut."""
    return np.clip(np.rint(images + pattern), 0, 255).astype(np.uint8)

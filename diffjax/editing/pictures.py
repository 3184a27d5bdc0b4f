"""The images and masks that an edit starts from, read from files."""

import os
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image, ImageOps

from diffjax.arrays import read_npy, read_npz
from diffjax.data import images
from diffjax.data.bad import BadRecord
from diffjax.data.folder import SUFFIXES, is_picture
from diffjax.data.images import to_uint8
from diffjax.errors import UserError

ARRAYS = (".npy", ".npz")
MOST_BYTES = 2**28  # of an array: 64 images of 1024x1024 in colour and more
MOST = 64  # what is edited at once: more would be a mistake in the folder's name
Part = Callable[[int, int], Bool[np.ndarray, "H W"]]


def read_pictures(
    path: str, form: tuple[int, int, int], coarse: int = 1
) -> Float32[np.ndarray, "N H W C"]:
    """The images of a file, or of the files that lie in a folder, in [-1, 1] and of one form.

    Whatever their size and mode, they are cropped and resized as those of a `folder` data set;
    except that of images `coarse` times smaller than the form each pixel is repeated. A .npy or
    .npz file holds HW, HWC or NHWC: whole numbers from 0 to 255, or floats from -1 to 1, or from 0
    to 1 where none is negative.
    Raises UserError for what is missing, cannot be read or is out of range, and for more than MOST.
    """
    return np.stack(_found(path, lambda file: _read(file, form, coarse)))


def read_whole(path: str) -> Float32[np.ndarray, "N H W C"]:
    """The images of a file, or of a folder's files, in [-1, 1] and as large as they are.

    They are grey, with one channel, or in colour; alpha goes. Otherwise as `read_pictures`. Raises
    UserError, besides, for images of more than one size or number of channels.
    """
    found = _found(path, _read_whole)
    shapes = {image.shape for image in found}
    if len(shapes) > 1:
        sizes = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise UserError(
            f"{path!r} has images of {sizes} (height, width, channels): give those of one shape"
        )
    return np.stack(found)


def _found(
    path: str, read: Callable[[pathlib.Path], list[Float32[np.ndarray, "H W C"]]]
) -> list[Float32[np.ndarray, "H W C"]]:
    """What `read` makes of a file, or of each file of a folder."""
    where = pathlib.Path(os.path.expanduser(path))
    files = [where] if where.is_file() else _files(where)
    found = [image for file in files for image in read(file)]
    if len(found) > MOST:
        raise UserError(f"{path!r} has {len(found)} images: give {MOST} at most")
    return found


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise UserError(f"no file or folder {str(folder)!r}: give the path of one with images")
    inside = sorted(file for file in folder.iterdir() if file.is_file() and file.name[0] != ".")
    legal = SUFFIXES + ARRAYS
    found = [file for file in inside if file.suffix.lower() in legal or is_picture(file)]
    if not found:
        raise UserError(f"no images in {str(folder)!r}: looked for {', '.join(legal)}")
    if len(found) > MOST:
        raise UserError(f"{str(folder)!r} has {len(found)} images: give {MOST} at most")
    return found


def _read(
    file: pathlib.Path, form: tuple[int, int, int], coarse: int
) -> list[Float32[np.ndarray, "H W C"]]:
    height, width, channels = form
    small = height // coarse, width // coarse

    def repeated(pixels: np.ndarray) -> np.ndarray:
        """As each cell's mean is its pixel, the image is held to those pixels."""
        return pixels.repeat(coarse, axis=0).repeat(coarse, axis=1)

    if file.name.lower().endswith(ARRAYS):
        pixels = _bytes(_array(file), str(file))
        if pixels.shape[1:3] == small:
            return [repeated(images.from_array(one, (*small, channels))) for one in pixels]
        return [images.from_array(one, form) for one in pixels]

    def read(image: Image.Image) -> np.ndarray:
        if (image.height, image.width) == small:
            return repeated(images.from_image(image, (*small, channels)))
        return images.from_image(image, form)

    return [_decoded(file, read)]


def _read_whole(file: pathlib.Path) -> list[Float32[np.ndarray, "H W C"]]:
    if file.name.lower().endswith(ARRAYS):
        pixels = _bytes(_array(file), str(file))
        form = images.shape(pixels.shape[1:], None)
        return [images.from_array(one, form) for one in pixels]

    def read(image: Image.Image) -> np.ndarray:
        channels = 1 if images.is_grey(image) else 3
        return images.from_image(image, (image.height, image.width, channels))

    return [_decoded(file, read)]


def _decoded(file: pathlib.Path, read: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What `read` makes of the picture in a file, turned as EXIF asks."""
    try:
        with images.opened(file, f"image {str(file)!r}", "give another") as image:
            return read(ImageOps.exif_transpose(image))
    except BadRecord as error:  # its own words are about skipping records of a data set
        raise UserError(f"{error.what}: give another") from error


def _array(file: pathlib.Path) -> np.ndarray:
    """The array in a file: of several in a .npz, that named `images`."""
    if file.suffix.lower() == ".npy":
        return read_npy(file, MOST_BYTES)
    held = read_npz(file, MOST_BYTES)
    if not held:
        raise UserError(f"{str(file)!r} holds no array: give another")
    return held.get("images", next(iter(held.values())))


def _bytes(pixels: np.ndarray, name: str) -> UInt8[np.ndarray, "N H W C"]:
    """An array of images as bytes."""
    channels = pixels.shape[-1] if pixels.ndim else 0
    if pixels.ndim == 2:
        pixels = pixels[None, ..., None]
    elif pixels.ndim == 3 and channels <= 4:
        pixels = pixels[None]
    if pixels.ndim != 4 or not 1 <= pixels.shape[-1] <= 4 or not pixels.size:
        raise UserError(f"{name!r} holds an array of shape {pixels.shape}: give HW, HWC or NHWC")
    if pixels.dtype.kind not in "uif":
        raise UserError(f"{name!r} holds {pixels.dtype}: give whole numbers or floats")
    low, high = (-1, 1) if pixels.dtype.kind == "f" else (0, 255)
    least, most = pixels.min(), pixels.max()
    if not (low <= least and most <= high):  # NaN is in no range
        raise UserError(
            f"{name!r} is out of range: its values go from {least} to {most}, "
            f"and {pixels.dtype} images from {low} to {high}"
        )
    if low < 0 <= least:  # next to no image from -1 to 1 lacks a dark pixel
        pixels = 2 * pixels - 1
    return to_uint8(pixels) if low < 0 else pixels.astype(np.uint8)


def _centre(height: int, width: int) -> Bool[np.ndarray, "H W"]:
    rows, columns = np.arange(height)[:, None], np.arange(width)
    inner = (height // 4 <= rows) & (rows < height - height // 4)
    return inner & (width // 4 <= columns) & (columns < width - width // 4)


# What is painted, True.
PARTS: dict[str, Part] = {
    "left": lambda h, w: np.broadcast_to(np.arange(w) < w // 2, (h, w)),
    "right": lambda h, w: np.broadcast_to(np.arange(w) >= w - w // 2, (h, w)),
    "top": lambda h, w: np.broadcast_to(np.arange(h)[:, None] < h // 2, (h, w)),
    "bottom": lambda h, w: np.broadcast_to(np.arange(h)[:, None] >= h - h // 2, (h, w)),
    "centre": _centre,
    "border": lambda h, w: ~_centre(h, w),
}


def kept_whole(
    keep: Bool[np.ndarray, "H W 1"], shape: tuple[int, ...]
) -> Bool[np.ndarray, "h w 1"]:
    """Which places of a map of a smaller shape stand for pixels that are all kept.

    Raises UserError where there is none.
    """
    height, width = shape
    squares = keep.reshape(height, keep.shape[0] // height, width, keep.shape[1] // width, 1)
    found = np.asarray(squares.all(axis=(1, 3)))
    if not found.any():
        side = keep.shape[0] // height
        raise UserError(
            f"the mask keeps no square of {side}x{side} pixels whole, which one latent stands for: "
            "keep more"
        )
    return found


def read_mask(text: str, form: tuple[int, int, int]) -> Bool[np.ndarray, "H W 1"]:
    """What is kept of an image, True, of the height and width of `form`.

    text: a part that is painted, of PARTS, or a file: white (or 1) is kept and black (or 0)
    painted. In a picture with transparent pixels these are painted, unless all others are black:
    then it is black strokes, which are. Raises UserError for a file that is missing, cannot be
    read, or is of another shape, and for a mask that keeps all or nothing.
    """
    height, width, _ = form
    if text in PARTS:
        keep = ~PARTS[text](height, width)
    else:
        file = pathlib.Path(os.path.expanduser(text))
        if not file.is_file():
            raise UserError(f"no mask {text!r}: give a file, or one of {', '.join(PARTS)}")
        grey = _mask_array(file) if file.name.lower().endswith(ARRAYS) else _decoded(file, _grey)
        if grey.shape != (height, width):
            shape = "x".join(map(str, grey.shape))
            raise UserError(
                f"mask {text!r} is {shape}, the run's images {height}x{width}: "
                "give one of their height and width"
            )
        keep = grey > 0
    if keep.all() or not keep.any():
        raise UserError(
            f"mask {text!r} keeps {'all' if keep.all() else 'nothing'} of an image: "
            "white (or 1) is kept, black (or 0) painted"
        )
    return keep[..., None]


def _grey(image: Image.Image) -> Float32[np.ndarray, "H W"]:
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        opaque = pixels[..., 3] >= 128
        if not opaque.all() and pixels[opaque, :3].any():
            return np.where(opaque, np.float32(1), np.float32(-1))
    return images.from_image(image, (image.height, image.width, 1))[..., 0]


def _mask_array(file: pathlib.Path) -> np.ndarray:
    """0 and 1 of a mask in a file of arrays."""
    mask = _array(file)
    if mask.dtype.kind not in "buif" or not np.isin(mask, (0, 1)).all():
        raise UserError(f"mask {str(file)!r} is out of range: 1 is kept, 0 painted, and no others")
    return mask[..., 0] if mask.ndim == 3 and mask.shape[-1] == 1 else mask

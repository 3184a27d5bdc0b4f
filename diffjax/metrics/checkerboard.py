"""How much of an image is a pattern that repeats from one block of pixels to the next."""

import numpy as np
from jaxtyping import Float


def checkerboard_energy(
    images: Float[np.ndarray, "N H W C"], stride: int = 2
) -> Float[np.ndarray, "N"]:
    """The share of each image's spectral energy that lies at multiples of 1 / stride.

    Frequencies are in cycles a pixel. Those counted have both parts a multiple of 1 / stride; the
    constant, (0, 0), counts neither there nor in the whole. By Parseval's theorem this is the share
    of the variance that the place within a stride x stride block explains: 0 of a constant, 1 of a
    checkerboard, (stride² - 1) / (H W - 1) expected of white noise, and the same whatever is added
    to the image or it is multiplied by. Rows and columns past a whole number of blocks are left
    out. Raises ValueError for a stride below 2, fewer than two blocks in a row or column, and
    numbers that are not finite.
    """
    if stride < 2:
        raise ValueError(f"stride is {stride}: blocks have 2 pixels or more")
    count, height, width, _ = images.shape
    rows, columns = height // stride, width // stride
    if min(rows, columns) < 2:
        raise ValueError(f"images of {height}x{width} have fewer than two blocks of {stride}")
    if not np.isfinite(images).all():
        raise ValueError("images that are not finite have no spectrum")
    whole = images[:, : rows * stride, : columns * stride].astype(np.float64)
    spectrum = np.fft.fft2(whole - whole.mean((1, 2), keepdims=True), axes=(1, 2))
    energy = np.abs(spectrum) ** 2
    of_blocks = energy[:, ::rows, ::columns].sum((1, 2, 3))
    total = energy.sum((1, 2, 3))
    # What rounding leaves of a constant is no pattern.
    size = np.abs(whole).max((1, 2, 3), initial=0) * np.finfo(np.float32).eps
    seen = total > (size * rows * columns * stride**2) ** 2
    return np.divide(of_blocks, total, out=np.zeros(count), where=seen)

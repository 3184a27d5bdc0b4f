"""Plain properties of images, by which a set of them can differ from another."""

import numpy as np
from jaxtyping import Float

Images = Float[np.ndarray, "N H W C"]


def brightness(images: Images) -> Float[np.ndarray, "N"]:
    """The mean over all pixels and channels, from -1 to 1."""
    return images.mean((1, 2, 3), dtype=np.float64)


def contrast(images: Images) -> Float[np.ndarray, "N"]:
    """The standard deviation over the pixels of their mean over channels, from 0 to 1."""
    return images.mean(3, dtype=np.float64).std((1, 2))


def saturation(images: Images) -> Float[np.ndarray, "N"]:
    """The mean distance of a pixel's highest channel from its lowest, from 0 to 2; 0 in grey."""
    return np.ptp(images, axis=3).mean((1, 2), dtype=np.float64)


def symmetry(images: Images) -> Float[np.ndarray, "N"]:
    """The correlation of each image with its mirror image, left and right; 0 of a constant."""
    centred = images.astype(np.float64)
    centred = centred - centred.mean((1, 2, 3), keepdims=True)
    power = (centred**2).sum((1, 2, 3))
    alike = (centred * centred[:, :, ::-1]).sum((1, 2, 3))
    seen = power > centred[0].size * np.finfo(np.float32).eps ** 2
    return np.divide(alike, power, out=np.zeros(len(images)), where=seen)


ATTRIBUTES = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "symmetry": symmetry,
}


def attributes_of(images: Images) -> dict[str, Float[np.ndarray, "N"]]:
    """Each attribute of images in [-1, 1]; without saturation where they are grey."""
    grey = images.shape[-1] == 1
    return {
        name: measure(images)
        for name, measure in ATTRIBUTES.items()
        if not (grey and name == "saturation")
    }

"""How near images come to those they should be, pixel by pixel."""

import numpy as np
from jaxtyping import Float


def psnr(
    images: Float[np.ndarray, "*shape"], truth: Float[np.ndarray, "*shape"], span: float | int = 2
) -> float:
    """The peak signal-to-noise ratio in dB, 10 log10(span² / mean squared error).

    `span` is the truth's whole range, 2 for images in [-1, 1]. The mean is over all that is given;
    infinite for equal images.
    """
    return decibels(float(np.mean((images.astype(np.float64) - truth) ** 2)), span)


def decibels(error: float, span: float | int = 2) -> float:
    """The peak signal-to-noise ratio of a mean squared error; infinite for 0."""
    return float("inf") if error == 0 else float(10 * np.log10(span**2 / error))

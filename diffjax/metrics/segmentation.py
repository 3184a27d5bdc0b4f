"""How well maps of classes overlap, from one count of pixels by true and by predicted class."""

import numpy as np
from jaxtyping import Bool, Float, Int


def confusion(
    truth: Int[np.ndarray, "*pixels"], predicted: Int[np.ndarray, "*pixels"], classes: int
) -> Int[np.ndarray, "K K"]:
    """Pixels by true class, a row each, and predicted class. Those of parts of a set add up.

    Raises ValueError for a class that is not from 0 to classes - 1.
    """
    both = np.stack([truth.ravel(), predicted.ravel()]).astype(np.int64)
    if both.size and not 0 <= both.min() <= both.max() < classes:
        raise ValueError(f"classes from {both.min()} to {both.max()}, where there are {classes}")
    counts = np.bincount(classes * both[0] + both[1], minlength=classes**2)
    return counts.reshape(classes, classes)


def iou(counts: Int[np.ndarray, "K K"]) -> Float[np.ndarray, "K"]:
    """Of each class, what truth and prediction share over what either has (Jaccard 1901).

    NaN for a class that neither has: np.nanmean is the mean of those there are.
    """
    common = np.diag(counts)
    return _ratio(common, counts.sum(0) + counts.sum(1) - common)


def dice(counts: Int[np.ndarray, "K K"]) -> Float[np.ndarray, "K"]:
    """Of each class, twice what both share over what both have together (Dice 1945), as `iou`."""
    return _ratio(2 * np.diag(counts), counts.sum(0) + counts.sum(1))


def threshold_iou(
    brightness: Float[np.ndarray, "*pixels"], foreground: Bool[np.ndarray, "*pixels"]
) -> float:
    """The largest IoU of the foreground that any one threshold gives, above it or below.

    Brightness lies in [-1, 1]; thresholds are a 128th apart.
    """
    edges = np.linspace(-1, 1, 257)
    own, other = (np.histogram(brightness[part], edges)[0] for part in (foreground, ~foreground))
    best = 0.0
    for way in (slice(None), slice(None, None, -1)):
        taken, wrongly = own[way].cumsum(), other[way].cumsum()
        best = max(best, float(np.max(taken / np.maximum(1, own.sum() + wrongly))))
    return best


def _ratio(a: Int[np.ndarray, "K"], b: Int[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)

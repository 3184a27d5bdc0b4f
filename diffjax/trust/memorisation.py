"""Which samples are copies of training images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffjax.errors import UserError
from diffjax.metrics.neighbours import nearest

HALF = 0.5  # of the distance of others: as near is a copy (Carlini et al. 2023, sec. 5.1)
NEIGHBOURS = 50  # distinct training images that tell how near is near


class Training(NamedTuple):
    """The distinct images of a training set. times: how often each occurs. first: where first."""

    images: Float[np.ndarray, "K D"]
    times: Int[np.ndarray, "K"]
    first: Int[np.ndarray, "K"]


def distinct(training: Float[np.ndarray, "M D"]) -> Training:
    """Training images, as pixels or features, each of them once.

    Raises UserError for fewer than two distinct ones.
    """
    images, first, times = np.unique(training, axis=0, return_index=True, return_counts=True)
    if len(images) < 2:
        raise UserError("the training images are all the same: there is nothing to compare with")
    return Training(images, times, first)


class Copies(NamedTuple):
    """What samples owe to training images.

    distance: of each to the nearest distinct training image, Euclidean, and which one that is.
    score: the distance over the mean of those to the nearest NEIGHBOURS.
    """

    distance: Float[np.ndarray, "N"]
    which: Int[np.ndarray, "N"]
    score: Float[np.ndarray, "N"]


def compare(samples: Float[np.ndarray, "N D"], training: Training) -> Copies:
    """Each sample beside training images (Carlini et al. 2023, eq. 2). Exact.

    A low score is that of a sample which one training image is far nearer to than others are.
    Training images that occur more than once count once: copies would hide each other.
    """
    near = nearest(samples, training.images, NEIGHBOURS)
    distance = np.sqrt(np.maximum(near.squared, 0))
    typical = distance.mean(1)
    score = np.divide(distance[:, 0], typical, out=np.ones(len(samples)), where=typical > 0)
    return Copies(distance[:, 0], near.which[:, 0], score)


def threshold(held_out: Copies) -> float:
    """The score below which a sample is a copy: HALF, or the lowest of images that are none.

    Images that were not trained on are no copies, however near they are.
    """
    return min(HALF, float(held_out.score.min()))

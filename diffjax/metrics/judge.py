"""What a classifier, the judge, says of images: of which class they are, and how surely."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from diffjax.typing import Apply, Params


class Opinion(NamedTuple):
    """A judge's logits and features, a row an image."""

    logits: Float[np.ndarray, "N K"]
    features: Float[np.ndarray, "N D"]


def make_judge(
    apply: Apply, batch_size: int
) -> Callable[[Params, Float[np.ndarray, "N H W C"]], Opinion]:
    """A compiled (params, images in [-1, 1]) -> Opinion, in batches; any N from 1.

    `apply({"params": params}, images)` gives logits and features. The last batch is filled up, so
    that every batch has one shape and compiles once.
    """
    compiled = jax.jit(apply)

    def judge(params: Params, images: Float[np.ndarray, "N H W C"]) -> Opinion:
        count, opinions = len(images), []
        for first in range(0, count, batch_size):
            batch = images[np.arange(first, first + batch_size) % count]
            opinions.append(jax.device_get(compiled({"params": params}, batch)))
        logits, features = (np.concatenate(part)[:count] for part in zip(*opinions, strict=True))
        return Opinion(logits, features)

    return judge


def confidence(logits: Float[np.ndarray, "N K"]) -> float:
    """The mean probability of the likeliest class, from 1 / K to 1."""
    logits = logits.astype(np.float64)
    # The likeliest has probability 1 over the sum of all relative to it, which cannot overflow.
    relative = np.exp(logits - logits.max(axis=1, keepdims=True))
    return float(np.mean(1 / relative.sum(axis=1)))


def class_shares(logits: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "K"]:
    """The share of images whose likeliest class is each one; they sum to 1."""
    classes = logits.shape[1]
    return np.bincount(logits.argmax(axis=1), minlength=classes) / len(logits)


def agreement(logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]) -> float:
    """The share of images whose likeliest class is their label: on real ones, the accuracy."""
    return float(np.mean(logits.argmax(axis=1) == labels))

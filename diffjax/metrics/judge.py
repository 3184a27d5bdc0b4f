"""What a classifier, the judge, says of images: of which class they are, and how surely."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from diffjax.batches import in_batches
from diffjax.errors import UserError
from diffjax.metrics.intervals import wilson
from diffjax.typing import Apply, Params


class Opinion(NamedTuple):
    """A judge's logits and features, a row an image."""

    logits: Float[np.ndarray, "N K"]
    features: Float[np.ndarray, "N D"]


def make_judge(
    apply: Apply, batch_size: int
) -> Callable[[Params, Float[np.ndarray, "N H W C"]], Opinion]:
    """A compiled (params, images in [-1, 1]) -> Opinion, in batches; any N from 1.

    `apply({"params": params}, images)` gives logits and features.
    """
    compiled = jax.jit(apply)

    def judge(params: Params, images: Float[np.ndarray, "N H W C"]) -> Opinion:
        variables = {"params": params}
        return Opinion(*in_batches(lambda batch: compiled(variables, batch), images, batch_size))

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
    """The share of images whose likeliest class is their label: on real ones, the accuracy.

    Raises UserError for a label that the judge has no class for.
    """
    return float(_agrees(logits, labels).mean())


def check_knows(
    logits: Float[np.ndarray, "N K"],
    labels: Int[np.ndarray, "N"],
    own_logits: Float[np.ndarray, "M K"],
    own_labels: Int[np.ndarray, "M"],
) -> None:
    """Raises UserError for a judge of other data than the real images of `logits` and `labels`.

    That is one which, chance aside, agrees with their labels less than half as often as with those
    of its own held-out images. What the two sets are called cannot tell: one set of data lies in
    several formats, and several lie in one.
    """
    agrees, own = _agrees(logits, labels), _agrees(own_logits, own_labels)
    most = wilson(int(agrees.sum()), len(agrees)).high
    if most < wilson(int(own.sum()), len(own)).low / 2:
        raise UserError(
            f"the judge agrees with {agrees.mean():.0%} of the labels of the run's data set and "
            f"with {own.mean():.0%} of its own: it has learnt other data; train one with the run's "
            "data set",
            option="judge",
        )


def _agrees(
    logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]
) -> Bool[np.ndarray, "N"]:
    classes = logits.shape[1]
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise UserError(
            f"label {wrong[0]} is out of range: the judge knows the classes 0 to {classes - 1}"
        )
    return logits.argmax(axis=1) == labels

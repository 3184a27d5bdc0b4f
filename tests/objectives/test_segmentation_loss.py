"""The loss of class maps: closed-form cross entropy a pixel."""

import jax
import numpy as np
import scipy.special

from diffjax.objectives.segmentation import segmentation_loss
from diffjax.randomness import sample_keys

KEYS = sample_keys(jax.random.key(0), 0, 8)
BATCH = {
    "image": jax.random.normal(jax.random.key(1), (8, 3, 4, 2)),
    "mask": jax.random.randint(jax.random.key(2), (8, 3, 4), 0, 5),
}


def linear(variables, images, train):
    assert train
    return images @ variables["params"]


def expected(params, truth):
    logits = np.asarray(BATCH["image"] @ params, np.float64)
    likely = scipy.special.log_softmax(logits, axis=-1)
    loss = -np.take_along_axis(likely, truth[..., None], -1).mean()
    return loss, (logits.argmax(-1) == truth).mean()


def test_cross_entropy_and_accuracy_a_pixel():
    params = jax.random.normal(jax.random.key(3), (2, 5))
    loss, metrics = jax.jit(segmentation_loss(linear, 5))(params, KEYS, BATCH)
    assert metrics.keys() == {"accuracy"}
    np.testing.assert_allclose(
        (loss, metrics["accuracy"]), expected(params, np.asarray(BATCH["mask"])), rtol=1e-5
    )


def test_of_two_classes_any_thing_counts_as_one():
    params = jax.random.normal(jax.random.key(3), (2, 2))
    loss, metrics = jax.jit(segmentation_loss(linear, 2))(params, KEYS, BATCH)
    things = (np.asarray(BATCH["mask"]) > 0).astype(int)
    np.testing.assert_allclose((loss, metrics["accuracy"]), expected(params, things), rtol=1e-5)

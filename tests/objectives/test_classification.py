"""The judge's loss: closed-form cross entropy, and augmentation that is each sample's own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from diffjax.objectives.classification import augment, classification_loss
from diffjax.randomness import sample_keys

KEYS = sample_keys(jax.random.key(0), 0, 64)
IMAGE = np.arange(42, dtype=np.float32).reshape(6, 7, 1)
BATCH = {
    "image": jax.random.normal(jax.random.key(3), (64, 6, 7, 1)),
    "label": jnp.arange(64) % 5,
}


def linear(variables, images, train):
    assert train
    flat = images.reshape(len(images), -1)
    return flat @ variables["params"], flat


def moved(flip, down, right, shift):
    """One legal outcome, by NumPy."""
    image = IMAGE[:, ::-1] if flip else IMAGE
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
    return padded[down : down + 6, right : right + 7]


def test_cross_entropy_and_accuracy():
    params = jax.random.normal(jax.random.key(1), (42, 5))
    loss, metrics = classification_loss(linear, flip=False, shift=0)(params, KEYS, BATCH)
    logits = np.asarray(BATCH["image"].reshape(64, -1) @ params, np.float64)
    labels = np.asarray(BATCH["label"])
    expected = -scipy.special.log_softmax(logits, axis=1)[np.arange(64), labels].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], (logits.argmax(1) == labels).mean())


def test_even_logits_cost_log_of_the_classes():
    loss, _ = classification_loss(linear)(jnp.zeros((42, 5)), KEYS, BATCH)
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)


@pytest.mark.parametrize(("flip", "shift"), [(True, 2), (True, 0), (False, 1), (False, 0)])
def test_each_image_is_one_of_those_it_may_become(flip, shift):
    keys = sample_keys(jax.random.key(0), 0, 600)
    out = augment(keys, jnp.broadcast_to(IMAGE, (600, 6, 7, 1)), flip=flip, shift=shift)
    steps = range(2 * shift + 1)
    legal = {moved(f, d, r, shift).tobytes() for f in {False, flip} for d in steps for r in steps}
    assert {np.asarray(image).tobytes() for image in out} == legal


def test_half_are_turned():
    keys = sample_keys(jax.random.key(0), 0, 1000)
    out = augment(keys, jnp.broadcast_to(IMAGE, (1000, 6, 7, 1)), flip=True, shift=0)
    turned = np.mean(np.asarray(out)[:, 0, 0, 0] != IMAGE[0, 0, 0])
    assert abs(turned - 0.5) < 5 * np.sqrt(0.25 / 1000)


def test_what_a_sample_becomes_depends_on_its_key_alone():
    whole = augment(KEYS, BATCH["image"], flip=True, shift=2)
    parts = [
        augment(KEYS[a:b], BATCH["image"][a:b], flip=True, shift=2) for a, b in [(0, 5), (5, 64)]
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_loss_of_a_batch_is_the_mean_of_its_parts():
    """So that neither devices nor accumulation change anything."""
    params = jax.random.normal(jax.random.key(1), (42, 5))
    loss_fn = jax.value_and_grad(classification_loss(linear, flip=True, shift=2), has_aux=True)
    whole = loss_fn(params, KEYS, BATCH)
    parts = [
        loss_fn(params, KEYS[a : a + 16], {k: v[a : a + 16] for k, v in BATCH.items()})
        for a in range(0, 64, 16)
    ]
    mean = jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), 0), *parts)
    chex.assert_trees_all_close(mean, whole, rtol=1e-5, atol=1e-6)

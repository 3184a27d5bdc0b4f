"""The judge's network: its outputs, the sizes it takes, and what it refuses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.classifier import Classifier

SMALL = Classifier(num_classes=4, stem=8, channels=(8, 16), num_features=6, norm_num_groups=4)


def initialised(model, shape):
    images = jax.random.normal(jax.random.key(0), (3, *shape))
    params = jax.jit(model.init)(jax.random.key(1), images)["params"]
    return images, params


apply = jax.jit(SMALL.apply)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (9, 14, 2), (1, 1, 1)])
def test_images_of_any_shape(shape):
    images, params = initialised(SMALL, shape)
    logits, features = apply({"params": params}, images)
    chex.assert_shape(logits, (3, 4))
    chex.assert_shape(features, (3, 6))
    chex.assert_tree_all_finite((logits, features))
    assert features.min() >= 0


def test_logits_follow_from_the_features():
    images, params = initialised(SMALL, (8, 8, 1))
    logits, features = apply({"params": params}, images)
    head = params["Dense_1"]
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], rtol=1e-4)


def test_images_do_not_see_each_other():
    images, params = initialised(SMALL, (8, 8, 1))
    together, _ = apply({"params": params}, images)
    alone = [apply({"params": params}, image[None])[0][0] for image in images]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-4, atol=1e-5)


def test_each_parameter_has_a_gradient():
    images, params = initialised(SMALL, (12, 12, 1))

    def loss(params):
        logits, _ = apply({"params": params}, images)
        return jnp.sum(jax.nn.log_softmax(logits)[:, 0])

    gradients = jax.jit(jax.grad(loss))(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(gradients))


def test_dropout_is_for_training():
    model = SMALL.clone(dropout=0.5)
    images, params = initialised(model, (8, 8, 1))
    rested, trained = jax.jit(model.apply), jax.jit(functools.partial(model.apply, train=True))
    first, _ = rested({"params": params}, images)
    masked, _ = trained({"params": params}, images, rngs={"dropout": jax.random.key(2)})
    again, _ = rested({"params": params}, images)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - masked).max() > 1e-3


def test_built_from_a_spec():
    text = "classifier(num_classes=4, stem=8, channels=(8, 16), num_features=6, norm_num_groups=4)"
    assert spec.build(text, diffjax.models) == SMALL
    assert spec.render(SMALL) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("channels=()", "at least one"),
        ("channels=(64,100)", "multiple of norm_num_groups=8"),
        ("channels=(0,)", "at least one"),
        ("stem=0", "stem must be above 0"),
        ("num_features=0", "num_features must be above 0"),
        ("norm_num_groups=0", "norm_num_groups must be above 0"),
        ("dropout=1", "dropout must be from 0"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(UserError, match=message):
        spec.build(f"classifier({options})", diffjax.models)

"""Contrastive losses at their limits, and their cost in memory; values in test_whole_batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.objectives.contrastive import contrastive_loss

CAPTIONS = jnp.arange(6)


def alone(x):
    return x


def loss_of(images, texts, contrast, captions=CAPTIONS, **params):
    loss = contrastive_loss(lambda params, keys, batch: (batch["x"], batch["y"]), contrast)
    batch = {"x": images, "y": texts, "caption": captions}
    return jax.jit(lambda p: loss(p, None, batch, alone)[0])(params)


def test_equal_embeddings_cost_the_logarithm_of_the_batch():
    same = jnp.ones((6, 3))
    np.testing.assert_allclose(
        loss_of(same, same, "softmax", logit_scale=jnp.asarray(2.0)), np.log(6), rtol=1e-6
    )


def test_the_sigmoid_at_zero_costs_log_2_per_text():
    x, y = jnp.eye(6, 12), jnp.eye(6, 12, k=6)  # all cosines are 0
    params = {"logit_scale": jnp.asarray(1.0), "logit_bias": jnp.asarray(0.0)}
    np.testing.assert_allclose(loss_of(x, y, "sigmoid", **params), 6 * np.log(2), rtol=1e-6)


@pytest.mark.parametrize("contrast", ["softmax", "sigmoid"])
def test_a_batch_of_one_caption_has_no_wrong_answers(contrast):
    """The softmax is then certain; both have a gradient that is a number."""
    x, y = jax.random.normal(jax.random.key(0), (2, 6, 3))
    params = {"logit_scale": jnp.asarray(1.0), "logit_bias": jnp.asarray(-1.0)}

    def of(x):
        return loss_of(x, y, contrast, jnp.zeros(6, jnp.int32), **params)

    value, slope = jax.value_and_grad(of)(x)
    assert np.isfinite(slope).all()
    if contrast == "softmax":
        np.testing.assert_allclose(value, 0, atol=1e-6)
    else:
        cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        np.testing.assert_allclose(value, np.log1p(np.exp(1 - np.e * cosines)).mean(), rtol=1e-5)


def test_pieces_keep_the_activations_of_one_piece():
    """The memory of the gradient of wide towers falls nearly as the number of pieces."""

    def encode(params, keys, batch):
        h = batch["x"]
        for _ in range(4):
            h = jnp.sin(h @ params["wide"]) @ params["narrow"]
        return h, batch["x"]

    params = {
        "wide": jnp.ones((4, 512)), "narrow": jnp.ones((512, 4)), "logit_scale": jnp.asarray(0.0)
    }  # fmt: skip
    batch = {"x": jnp.ones((512, 4)), "caption": jnp.arange(512)}

    def memory(pieces):
        loss = contrastive_loss(encode, "softmax", pieces)
        slope = jax.grad(lambda p: loss(p, jnp.zeros(512), batch, alone)[0])
        return jax.jit(slope).lower(params).compile().memory_analysis().temp_size_in_bytes

    fixed = 5 * 4 * 512**2  # matrices of all pairs, which pieces do not change
    assert memory(16) - fixed < (memory(1) - fixed) / 3

"""Losses of autoencoders: terms in closed form, and networks so small that gradients have one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from diffjax.objectives.adversarial import GAMES
from diffjax.objectives.autoencoding import (
    DELTA,
    MOST,
    Adversary,
    adaptive_weight,
    autoencoding_loss,
    elbo_bits_per_dim,
    kl_to_unit,
)
from diffjax.randomness import sample_keys
from diffjax.training.step import Loss, init_state, make_train_step
from diffjax.variational_terms import gaussian_nll, levels_nll

KEYS = sample_keys(jax.random.key(3), 0, 4)
X = np.array([0.7, -0.4, 0.2, 0.9])
BATCH = {"image": jnp.asarray(X, jnp.float32).reshape(4, 1, 1, 1)}
E, K, V, C = 0.8, 1.3, 0.6, -0.2  # latents e x, reconstructions k e x, logits v x + c
PARAMS = {
    "autoencoder": {"encoder": {"e": jnp.asarray(E)}, "decoder": {"kernel": jnp.asarray(K)}},
    "discriminator": {"v": jnp.asarray(V), "c": jnp.asarray(C)},
}
LAST = ("autoencoder", "decoder", "kernel")


def grid(values):
    """Numbers as images of one row and one channel."""
    return jnp.asarray(values, jnp.float32)[None, None, :, None]


@given(st.floats(-3, 3), st.floats(-12, 6))
def test_kl_is_the_integral_of_the_density_times_the_log_ratio(mean, log_variance):
    """By Gauss-Hermite quadrature, exact for log ratios, which are quadratic."""
    z, weights = np.polynomial.hermite_e.hermegauss(8)
    deviation = np.exp(log_variance / 2)
    at = mean + deviation * z
    ratio = scipy.stats.norm.logpdf(at, mean, deviation) - scipy.stats.norm.logpdf(at)
    expected = weights @ ratio / weights.sum()
    found = kl_to_unit(grid([mean, 0]), grid([log_variance, 0]))
    np.testing.assert_allclose(found, [expected], rtol=1e-4, atol=1e-5)


def test_the_elbo_is_tight_at_the_true_posterior():
    """x = w z + s noise: with the posterior of z given x, kl + nll is -log N(x; 0, w² + s²)."""
    w, s, x = 0.6, 0.3, 0.45
    variance = s**2 / (w**2 + s**2)
    mean = w * x / (w**2 + s**2)
    z, weights = np.polynomial.hermite_e.hermegauss(8)
    latents = mean + np.sqrt(variance) * z
    nlls = [gaussian_nll(grid([x]), grid([w * latent]), jnp.asarray(s))[0] for latent in latents]
    nll = jnp.asarray([weights @ np.array(nlls) / weights.sum()])
    kl = kl_to_unit(grid([mean]), grid([np.log(variance)]))
    expected = -scipy.stats.norm.logpdf(x, 0, np.sqrt(w**2 + s**2)) / np.log(2)
    np.testing.assert_allclose(elbo_bits_per_dim(kl, nll, 1), [expected], rtol=1e-5)


def test_a_decoder_without_knowledge_needs_eight_bits():
    """A normal density that is flat over all levels, and no rate, is the uniform distribution.

    The outermost levels reach to infinity, so they are left out.
    """
    levels = np.arange(20, 236)
    images = jnp.asarray(levels / 127.5 - 1, jnp.float32)[None, None, :, None]
    inner = levels_nll(images, jnp.zeros_like(images), jnp.asarray(100.0))
    # The density of N(0, 100²) is 1 / (100 √2π); a level is 2 / 255 wide.
    expected = -np.log2(2 / 255 / (100 * np.sqrt(2 * np.pi)))
    found = elbo_bits_per_dim(jnp.zeros(1), inner, images.size)
    np.testing.assert_allclose(found, [expected], rtol=1e-4)
    np.testing.assert_allclose(
        elbo_bits_per_dim(jnp.asarray([np.log(256) * 12.0]), jnp.zeros(1), 12), [8], rtol=1e-6
    )


def encode(params, keys, images):
    z = params["autoencoder"]["encoder"]["e"] * images
    return z, kl_to_unit(z, jnp.zeros_like(z))  # e² x² / 2


def decode(params, z):
    return params["autoencoder"]["decoder"]["kernel"] * z


def discriminate(params, x):
    """Two equal patches per image."""
    logit = params["discriminator"]["v"] * x[:, :, :, 0] + params["discriminator"]["c"]
    return jnp.concatenate([logit, logit], 2)


def loss_of(**options):
    return autoencoding_loss(
        encode,
        decode,
        lambda params, frozen, x, found: ((x - found) ** 2).sum((1, 2, 3)),
        **options,
    )


def alone(share):
    return share


def adversary(**options):
    return Adversary(discriminate, GAMES["hinge"], LAST, **options)


def ratio_at(x):
    """|d distortion / d k| over |d adversarial / d k|, of (k e x - x)² and -(v k e x + c)."""
    return abs(np.mean(2 * (K * E - 1) * x * E * x)) / (abs(np.mean(V * E * x)) + DELTA)


def test_an_autoencoder_alone():
    (loss, metrics), grads = jax.value_and_grad(loss_of(beta=0.3), has_aux=True)(
        PARAMS, {}, KEYS, BATCH, alone
    )
    distortion, rate = np.mean((K * E - 1) ** 2 * X**2), np.mean(E**2 * X**2 / 2)
    np.testing.assert_allclose(metrics["distortion"], distortion, rtol=1e-5)
    np.testing.assert_allclose(metrics["rate"], rate, rtol=1e-5)
    np.testing.assert_allclose(loss, distortion + 0.3 * rate, rtol=1e-5)
    e = np.mean(X**2) * (2 * (K * E - 1) * K + 0.3 * E)
    np.testing.assert_allclose(grads["autoencoder"]["encoder"]["e"], e, rtol=1e-4)
    assert grads["discriminator"] == {"v": 0, "c": 0}


def test_losses_are_per_dimension():
    """Four equal pixels have four times the nats, and the same loss."""
    wide = {"image": jnp.broadcast_to(BATCH["image"], (4, 2, 2, 1))}
    loss, _ = loss_of()(PARAMS, {}, KEYS, BATCH, alone)
    np.testing.assert_allclose(loss_of()(PARAMS, {}, KEYS, wide, alone)[0], loss, rtol=1e-6)


def test_each_networks_gradient_is_that_of_its_own_losses():
    options = {"beta": 0.3, "adversary": adversary(weight=0.5)}
    (loss, metrics), grads = jax.value_and_grad(loss_of(**options), has_aux=True)(
        PARAMS, {}, KEYS, BATCH, alone
    )
    weight = 0.5 * ratio_at(X)
    np.testing.assert_allclose(metrics["adversarial_weight"], weight, rtol=1e-4)
    mean, square = X.mean(), np.mean(X**2)
    k = 2 * (K * E - 1) * E * square - weight * V * E * mean
    e = square * (2 * (K * E - 1) * K + 0.3 * E) - weight * V * K * mean
    np.testing.assert_allclose(grads["autoencoder"]["decoder"]["kernel"], k, rtol=1e-4)
    np.testing.assert_allclose(grads["autoencoder"]["encoder"]["e"], e, rtol=1e-4)
    real, fake = V * X + C, V * K * E * X + C
    assert (real < 1).all()
    assert (fake > -1).all()  # the hinges are open, with slopes -1 and 1
    np.testing.assert_allclose(grads["discriminator"]["v"], np.mean(K * E * X - X), rtol=1e-4)
    np.testing.assert_allclose(grads["discriminator"]["c"], 0, atol=1e-6)
    np.testing.assert_allclose(metrics["discriminator_loss"], np.mean(2 - real + fake), rtol=1e-5)
    parts = metrics["distortion"] + 0.3 * metrics["rate"] + metrics["discriminator_loss"]
    np.testing.assert_allclose(loss, parts + weight * metrics["generator_loss"], rtol=1e-5)


def test_r1_of_patches_is_of_their_mean_logit():
    """The slope of v x + c is v, however many patches there are."""
    _, metrics = loss_of(adversary=adversary(r1=0.6))(PARAMS, {}, KEYS, BATCH, alone)
    np.testing.assert_allclose(metrics["r1"], 0.3 * V**2, rtol=1e-5)


@pytest.mark.parametrize(("step", "factor"), [(0, 0), (2, 0), (3, 1), (9, 1)])
def test_both_adversarial_losses_begin_at_their_step(step, factor):
    frozen = {"step": jnp.asarray(step, jnp.int32)}
    late, plain = loss_of(adversary=adversary(start=3)), loss_of(adversary=adversary())
    of = lambda loss: jax.grad(loss, has_aux=True)(PARAMS, frozen, KEYS, BATCH, alone)[0]  # noqa: E731
    expected = of(plain) if factor else of(loss_of())
    jax.tree.map(np.testing.assert_array_equal, of(late), expected)


def test_the_adaptive_weight_makes_both_gradients_equally_long():
    """Of kernels with many numbers; and it is cut, and no gradient goes through it."""
    rng = np.random.default_rng(0)
    kernel, target, way = (jnp.asarray(rng.normal(size=(3, 4)), jnp.float32) for _ in range(3))
    rebuild = lambda kernel: 2 * kernel.reshape(1, 3, 4, 1)  # noqa: E731
    distorted = lambda x: jnp.sum((x[0, ..., 0] - target) ** 2)  # noqa: E731
    adversarial = lambda x: jnp.sum(x[0, ..., 0] * way)  # noqa: E731
    found = adaptive_weight(rebuild, kernel, distorted, adversarial)
    longer = np.linalg.norm(4 * (2 * np.float64(kernel) - target))
    np.testing.assert_allclose(found, longer / (2 * np.linalg.norm(way) + DELTA), rtol=1e-5)
    assert adaptive_weight(rebuild, kernel, distorted, lambda x: 0 * jnp.sum(x)) == MOST

    def scaled(scale, kernel):
        return adaptive_weight(rebuild, kernel, lambda x: scale * distorted(x), adversarial)

    assert scaled(2.0, kernel) > 1.9 * found
    by_scale, by_kernel = jax.grad(scaled, (0, 1))(2.0, kernel)
    assert by_scale == 0
    np.testing.assert_array_equal(by_kernel, 0)


def trained(accumulate=1, devices=1):
    """One step of plain gradient descent, on so many devices."""
    loss = Loss(loss_of(adversary=adversary()))
    tx = optax.sgd(0.1)
    axis = "devices" if devices > 1 else None
    step = make_train_step(loss, tx, 0.9, accumulate=accumulate, axis_name=axis)
    state, key = init_state(PARAMS, tx), jax.random.key(5)
    if devices == 1:
        return jax.jit(step)(state, key, BATCH)
    shares = jax.tree.map(lambda a: a.reshape(devices, -1, *a.shape[1:]), BATCH)
    ran = jax.jit(jax.vmap(step, in_axes=(None, None, 0), axis_name=axis))(state, key, shares)
    return jax.tree.map(lambda a: a[0], ran)


def test_two_devices_take_the_step_of_one():
    (one, of_one), (two, of_two) = trained(), trained(devices=2)
    np.testing.assert_allclose(of_two["adversarial_weight"], ratio_at(X), rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), two.params, one.params)
    np.testing.assert_allclose(of_two["loss"], of_one["loss"], rtol=1e-5)


def test_each_piece_of_an_accumulated_batch_has_its_own_weight():
    _, metrics = trained(accumulate=2)
    expected = (ratio_at(X[:2]) + ratio_at(X[2:])) / 2
    assert abs(expected / ratio_at(X) - 1) > 0.1
    np.testing.assert_allclose(metrics["adversarial_weight"], expected, rtol=1e-4)

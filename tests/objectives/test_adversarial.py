"""Adversarial losses where both networks are so small that every gradient has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from diffjax.models.gan.dcgan import DCGAN
from diffjax.objectives.adversarial import GAMES, adversarial_loss
from diffjax.randomness import normal, sample_keys
from diffjax.training.optimizers import two_time_scales
from diffjax.training.step import init_state, make_train_step

KEYS = sample_keys(jax.random.key(3), 0, 4)
X = np.array([0.7, -0.4, 0.2, 0.9])
BATCH = {"image": jnp.asarray(X, jnp.float32).reshape(4, 1, 1, 1)}
A, V, C = 0.8, 1.3, -0.2  # images a z, logits v x + c
PARAMS = {
    "generator": {"a": jnp.asarray(A)},
    "discriminator": {"v": jnp.asarray(V), "c": jnp.asarray(C)},
}
sigmoid = scipy.special.expit


def generate(params, z):
    return (params["generator"]["a"] * z)[:, None, None]


def discriminate(params, x):
    return params["discriminator"]["v"] * x[:, 0, 0, 0] + params["discriminator"]["c"]


def squared(params, x):
    return params["discriminator"]["v"] * x[:, 0, 0, 0] ** 2


def of(game="non_saturating", discriminate=discriminate, **options):
    return adversarial_loss(generate, discriminate, 1, game=GAMES[game], **options)


def latents():
    return np.asarray(normal(KEYS, (1,)), np.float64)[:, 0]


def closed_form(game):
    """Both losses, and the gradients of a by the generator's, of v and c by the other's."""
    z = latents()
    fake, real = V * A * z + C, V * X + C
    if game == "non_saturating":
        # -log sigmoid(fake); -log sigmoid(real) - log(1 - sigmoid(fake))
        losses = np.logaddexp(0, -fake), np.logaddexp(0, -real) + np.logaddexp(0, fake)
        by_fake, at_real, at_fake = -sigmoid(-fake), -sigmoid(-real), sigmoid(fake)
    else:
        losses = -fake, np.maximum(0, 1 - real) + np.maximum(0, 1 + fake)
        by_fake, at_real, at_fake = -np.ones(4), -1.0 * (real < 1), 1.0 * (fake > -1)
    a = np.mean(by_fake * V * z)
    v = np.mean(at_real * X + at_fake * A * z)
    return [np.mean(loss) for loss in losses], (a, v, np.mean(at_real + at_fake))


@pytest.mark.parametrize("game", GAMES)
def test_each_networks_gradient_is_that_of_its_own_loss(game):
    (loss, metrics), grads = jax.value_and_grad(of(game), has_aux=True)(PARAMS, KEYS, BATCH)
    (generator, discriminator), (a, v, c) = closed_form(game)
    np.testing.assert_allclose(metrics["generator_loss"], generator, rtol=1e-5)
    np.testing.assert_allclose(metrics["discriminator_loss"], discriminator, rtol=1e-5)
    np.testing.assert_allclose(loss, generator + discriminator, rtol=1e-5)
    np.testing.assert_allclose(metrics["real_logit"], np.mean(V * X + C), rtol=1e-5)
    np.testing.assert_allclose(metrics["fake_logit"], np.mean(V * A * latents() + C), rtol=1e-5)
    assert metrics["r1"] == 0
    np.testing.assert_allclose(grads["generator"]["a"], a, rtol=1e-5)
    np.testing.assert_allclose(grads["discriminator"]["v"], v, rtol=1e-5)
    np.testing.assert_allclose(grads["discriminator"]["c"], c, rtol=1e-5, atol=1e-6)


def test_hinge_is_flat_beyond_its_margins():
    """Real logits above 1 and fakes below -1 teach the discriminator nothing more."""
    far = {**PARAMS, "discriminator": {"v": jnp.asarray(40.0), "c": jnp.asarray(0.0)}}
    batch = {"image": jnp.full((4, 1, 1, 1), 0.5)}
    below = lambda params, z: generate(params, -1 - jnp.abs(z))  # noqa: E731
    loss_fn = adversarial_loss(below, discriminate, 1, game=GAMES["hinge"])
    grads, metrics = jax.grad(loss_fn, has_aux=True)(far, KEYS, batch)
    assert metrics["discriminator_loss"] == 0
    assert grads["discriminator"]["v"] == 0
    assert grads["generator"]["a"] != 0


def test_r1_is_half_gamma_times_the_squared_slope_at_real_images():
    """Of v x²: the slope is 2 v x, the penalty 2 gamma v² E[x²], its gradient 4 gamma v E[x²]."""
    gamma, mean_square = 0.6, np.mean(X**2)
    costly, plain = of(discriminate=squared, r1=gamma), of(discriminate=squared)
    grads, metrics = jax.grad(costly, has_aux=True)(PARAMS, KEYS, BATCH)
    without, _ = jax.grad(plain, has_aux=True)(PARAMS, KEYS, BATCH)
    np.testing.assert_allclose(metrics["r1"], 2 * gamma * V**2 * mean_square, rtol=1e-5)
    added = grads["discriminator"]["v"] - without["discriminator"]["v"]
    np.testing.assert_allclose(added, 4 * gamma * V * mean_square, rtol=1e-5)
    np.testing.assert_array_equal(grads["generator"]["a"], without["generator"]["a"])


def test_r1_of_a_convolutional_discriminator_by_central_differences():
    """In float64, so that twice through the convolutions' own gradients can be told from nearly."""
    model = DCGAN(sample_size=4, latent=1, channels=(8,), spectral_norm=True)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1)))["params"]
    with jax.enable_x64(True):
        key = jax.random.key(1)
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), params)
        images = jax.random.normal(key, (2, 4, 4, 1), jnp.float64)
        way = jax.tree.map(lambda a: jax.random.normal(key, a.shape, a.dtype), wide)
        loss_fn = adversarial_loss(
            lambda params, z: jnp.zeros((len(z), 4, 4, 1)),
            lambda params, x: model.apply({"params": params}, x, method="discriminate"),
            1,
            game=GAMES["non_saturating"],
            r1=3.0,
        )

        @jax.jit
        def penalty(step):
            moved = jax.tree.map(lambda p, d: p + step * d, wide, way)
            return loss_fn(moved, KEYS[:2], {"image": images})[1]["r1"]

        expected = (penalty(1e-5) - penalty(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.jit(jax.grad(penalty))(0.0), expected, rtol=1e-6)
        assert abs(expected) > 1e-3


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_one_train_step_moves_each_network_by_its_own_gradient_and_rate(accumulate):
    """Adam's first step is the rate against the gradient's sign; so is every piece's mean."""
    tx = two_time_scales({"generator": 0.01, "discriminator": 0.04})
    step = jax.jit(make_train_step(of(), tx, 0.9, accumulate=accumulate))
    key = jax.random.key(5)
    state, metrics = step(init_state(PARAMS, tx), key, BATCH)
    keys = sample_keys(jax.random.fold_in(key, 0), 0, 4)
    (loss, _), grads = jax.value_and_grad(of(), has_aux=True)(PARAMS, keys, BATCH)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    for network, rate in (("generator", 0.01), ("discriminator", 0.04)):
        for name, before in PARAMS[network].items():
            moved = state.params[network][name] - before
            np.testing.assert_allclose(moved, -rate * np.sign(grads[network][name]), rtol=1e-3)

"""The GAN's networks: shapes, the spectral norm by LAPACK, and what an image may depend on."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import diffjax.models.gan
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.gan.dcgan import DCGAN
from diffjax.models.gan.spectral_norm import spectral_norm
from diffjax.models.gan.strided import halve
from diffjax.models.upsampling import WAYS

KEY = jax.random.key(0)
TINY = DCGAN(sample_size=8, latent=3, channels=(6, 4), norm_num_groups=2)


@partial(jax.jit, static_argnums=0)
def init(model):
    return jax.jit(model.init)(KEY, jnp.zeros((1, model.latent)))["params"]


@partial(jax.jit, static_argnums=0)
def generate(model, params, z):
    return model.apply({"params": params}, z, method="generate")


@partial(jax.jit, static_argnums=0)
def discriminate(model, params, x):
    return model.apply({"params": params}, x, method="discriminate")


@pytest.mark.parametrize("size", [(6, 8), (7, 4), (6, 9)])
def test_halving_is_xlas_strided_convolution(size):
    """4x4, stride 2, as torch cuts them with padding 1; not square, so that axes are told apart."""
    x, kernel = jax.random.normal(KEY, (2, *size, 3)), jax.random.normal(KEY, (4, 4, 3, 5))
    form = ("NHWC", "HWIO", "NHWC")
    down = lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=form)
    np.testing.assert_allclose(halve(x, kernel), down, atol=1e-5)


def singular(kernel):
    return np.linalg.svd(np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("size", "channels", "levels"), [(28, 1, (128, 64)), (32, 3, (64, 32, 16)), (64, 3, (8,) * 4)]
)
def test_shapes(size, channels, levels, way):
    model = DCGAN(sample_size=size, image_channels=channels, channels=levels, upsample=way)
    params = jax.eval_shape(lambda: init(model))
    assert set(params) == {"generator", "discriminator"}
    images = jax.eval_shape(lambda p: generate(model, p, jnp.zeros((2, 64))), params)
    logits = jax.eval_shape(lambda p, x: discriminate(model, p, x), params, images)
    chex.assert_shape([images, logits], [(2, size, size, channels), (2,)])


@pytest.mark.parametrize("shape", [(12, 1), (5, 9), (4, 4, 1, 16), (4, 4, 8, 5)])
def test_spectral_norm_is_the_largest_singular_value_and_its_gradient_the_vectors(shape):
    kernel = jax.random.normal(KEY, shape)
    u, values, v = singular(kernel)
    found, gradient = jax.value_and_grad(spectral_norm)(kernel)
    np.testing.assert_allclose(found, values[0], rtol=1e-5)
    np.testing.assert_allclose(gradient.reshape(-1, shape[-1]), np.outer(u[:, 0], v[0]), atol=1e-3)


@pytest.mark.parametrize("ratio", [1.0, 1 - 1e-4, 1 - 1e-3, 0.98])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_spectral_norm_where_two_are_near_and_where_numbers_are_small_or_large(ratio, scale):
    """Never above, and below by no more than the two differ."""
    u, _, v = singular(jax.random.normal(KEY, (7, 5)))
    values = np.array([1, ratio, 0.3, 0.2, 0.0])
    found = spectral_norm(jnp.asarray(scale * (u[:, :5] * values) @ v, jnp.float32)) / scale
    assert max(ratio, 1 - 2e-4) - 1e-6 < found < 1 + 1e-6


def test_spectral_norm_of_nothing_is_nothing():
    assert spectral_norm(jnp.zeros((3, 2))) == 0


def test_a_discriminator_with_spectral_norm_is_that_of_the_divided_kernels():
    """Its parameters are those of the plain one; biases are used as they are."""
    params = jax.tree.map(
        lambda a: jax.random.normal(jax.random.fold_in(KEY, a.size), a.shape), init(TINY)
    )
    divided = jax.tree.map(
        lambda a: a / singular(a)[1][0] if a.ndim > 1 else a, params["discriminator"]
    )
    x = jax.random.normal(KEY, (3, 8, 8, 1))
    normed = TINY.clone(spectral_norm=True)
    chex.assert_trees_all_equal(init(normed), init(TINY))
    expected = discriminate(TINY, {"discriminator": divided}, x)
    np.testing.assert_allclose(discriminate(normed, params, x), expected, rtol=1e-4)


def test_an_image_depends_on_its_latent_alone_and_a_logit_on_its_image():
    params, z = init(TINY), jax.random.normal(KEY, (3, 3))
    images = generate(TINY, params, z)
    logits = discriminate(TINY, params, images)
    for i in range(3):
        np.testing.assert_allclose(generate(TINY, params, z[i : i + 1])[0], images[i], atol=1e-6)
        alone = discriminate(TINY, params, images[i : i + 1])[0]
        np.testing.assert_allclose(alone, logits[i], atol=1e-6)
    assert len(np.unique(np.round(logits, 5))) == 3


def test_features_in_the_generator_are_of_one_size_however_large_the_kernels():
    """Normalised in groups: ten times the projection, or the first way up, is the same image."""
    params, z = init(TINY), jax.random.normal(KEY, (2, 3))
    images = generate(TINY, params, z)
    for layer in ("project", "up_0"):
        grown = {**params["generator"]}
        grown[layer] = jax.tree.map(lambda a: 10 * a, grown[layer])
        found = generate(TINY, {"generator": grown}, z)
        np.testing.assert_allclose(found, images, atol=1e-3)


def test_a_size_that_data_will_settle_is_needed_when_images_are():
    model = spec.build("dcgan(channels=(128,64,32))", diffjax.models.gan)
    with pytest.raises(UserError, match="needs a sample_size"):
        jax.eval_shape(lambda: init(model))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dcgan(latent=0)", "latent must be above 0"),
        ("dcgan(latent='big')", "latent is a"),
        ("dcgan(sample_size=30)", "a sample_size divisible by 4"),
        ("dcgan(channels=())", "at least one"),
        ("dcgan(channels=(8,-8))", "each a multiple of norm_num_groups=8"),
        ("dcgan(channels=(8,12))", "each a multiple of norm_num_groups=8"),
        ("dcgan(norm_num_groups=0)", "norm_num_groups must be above 0"),
        ("dcgan(upsample='bicubic')", "upsample is a"),
        ("dcgam", "did you mean 'dcgan'"),
    ],
)
def test_refused(text, message):
    with pytest.raises(UserError, match=message) as caught:
        spec.build(text, diffjax.models.gan)
    assert "\n" not in str(caught.value)

"""Spaces lead from images to x0 and back, by a first stage whose truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax.spaces
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.layers import average_pixels, repeat_pixels
from diffjax.randomness import sample_keys
from diffjax.spaces.base import Autoencoder
from diffjax.spaces.latents import Latents
from diffjax.spaces.pixels import Pixels

KEYS = sample_keys(jax.random.key(0), 0, 400)
IMAGES = jnp.broadcast_to(
    repeat_pixels(jax.random.uniform(jax.random.key(1), (1, 2, 2, 1))), (400, 4, 4, 1)
)
STAGE = Autoencoder(
    lambda images: (3 * average_pixels(images) + 2, jnp.full((len(images), 2, 2, 1), -2.0)),
    lambda z: repeat_pixels((z - 2) / 3),
)


def test_pixels_are_the_images():
    space = Pixels()
    assert (space.limit, space.needs_autoencoder, space.shape((4, 6, 3))) == (1.0, False, (4, 6, 3))
    assert space.encode(KEYS, IMAGES) is IMAGES
    assert space.decode(IMAGES) is IMAGES


def test_latents_are_drawn_from_the_posterior_and_scaled():
    """z has mean 3 x + 2 and standard deviation e⁻¹; x0 = 0.5 (z - 1)."""
    space = Latents(channels=1, factor=2, scale_factor=0.5, shift_factor=1.0)
    assert (space.limit, space.shape((4, 4, 1))) == (None, (2, 2, 1))
    x0 = np.asarray(space.encode(KEYS, IMAGES, STAGE))
    mean = 0.5 * (3 * np.asarray(average_pixels(IMAGES))[0] + 2 - 1)
    np.testing.assert_allclose(x0.mean(0), mean, atol=0.04)
    np.testing.assert_allclose(x0.std(0), 0.5 * np.exp(-1), atol=0.03)
    np.testing.assert_allclose(space.encode(KEYS[5:7], IMAGES[5:7], STAGE), x0[5:7], rtol=1e-6)
    exact = Autoencoder(
        lambda images: (STAGE.encode(images)[0], jnp.full((400, 2, 2, 1), -60.0)), STAGE.decode
    )
    back = space.decode(space.encode(KEYS, IMAGES, exact), exact)
    np.testing.assert_allclose(back, IMAGES, atol=1e-5)


@pytest.mark.parametrize("name", spec.names(diffjax.spaces))
def test_contract(name):
    space = spec.build(name, diffjax.spaces)
    assert spec.build(spec.render(space), diffjax.spaces) == space
    assert len(space.shape((64, 64, 3))) == 3
    assert space.needs_autoencoder == (space.limit is None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Latents(factor=0), "factor must be above 0"),
        (lambda: Latents(scale_factor=float("nan")), "scale_factor must be above 0"),
        (lambda: Latents().shape((28, 28, 1)), "multiples of 8"),
        (lambda: Latents().encode(KEYS, IMAGES), "needs an autoencoder"),
        (lambda: Latents().decode(IMAGES), "needs an autoencoder"),
    ],
)
def test_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()

"""The loss of the course's first notebook: half an image under half the noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.objectives.reconstruction import reconstruction_loss, veil
from diffjax.randomness import sample_keys

COUNT = 400
KEYS = sample_keys(jax.random.key(0), 0, COUNT)
IMAGES = jnp.broadcast_to(jax.random.uniform(jax.random.key(1), (5, 4, 1)), (COUNT, 5, 4, 1))


def test_half_of_each():
    noise = 2 * np.asarray(veil(KEYS, IMAGES) - 0.5 * IMAGES)
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert np.abs(np.corrcoef(noise.reshape(COUNT, -1).T) - np.eye(20)).max() < 5 / np.sqrt(COUNT)


def test_what_a_sample_gets_depends_on_its_key_alone():
    parts = [veil(KEYS[a:b], IMAGES[a:b]) for a, b in [(0, 7), (7, COUNT)]]
    np.testing.assert_array_equal(np.concatenate(parts), veil(KEYS, IMAGES))


@pytest.mark.parametrize(("gain", "error"), [(0.0, None), (2.0, 1.0), (1.0, None)])
def test_squared_error_of_a_linear_denoiser(gain, error):
    """x̂ = g (x + ε) / 2 errs by (g / 2 - 1)² x² + (g / 2)² on average."""

    def apply(variables, x, train):
        assert train
        return variables["params"] * x

    loss, metrics = reconstruction_loss(apply)(jnp.asarray(gain), KEYS, {"image": IMAGES})
    expected = (gain / 2 - 1) ** 2 * np.mean(np.asarray(IMAGES) ** 2) + (gain / 2) ** 2
    assert metrics == {}
    np.testing.assert_allclose(loss, expected, rtol=0.1)
    if error is not None:
        np.testing.assert_allclose(expected, error)

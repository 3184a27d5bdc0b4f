"""Dropout's masks: each sample's own, of the right rate, another in each layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffjax.objectives.denoising import denoising_loss
from diffjax.objectives.dropout import by_sample
from diffjax.process import Process
from diffjax.randomness import sample_keys
from diffjax.schedules.linear import Linear

KEYS = sample_keys(jax.random.key(0), 0, 8)


class Two(nn.Module):
    """Two layers of dropout, side by side."""

    rate: float = 0.3

    @nn.compact
    def __call__(self, x, t=None, train=True):
        layers = [nn.Dropout(self.rate, deterministic=not train)(x) for _ in range(2)]
        return jnp.stack(layers, 1)


def masks(keys, rate=0.3, train=True):
    with by_sample(keys):
        out = Two(rate).apply({}, jnp.ones((len(keys), 50, 40)), train=train)
    return np.asarray(out)


def test_masks_are_the_samples_own():
    whole = masks(KEYS)
    np.testing.assert_array_equal(np.concatenate([masks(KEYS[:3]), masks(KEYS[3:])]), whole)
    assert len({mask.tobytes() for sample in whole for mask in sample}) == 16


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_rate_and_scale(rate):
    out = masks(KEYS, rate)
    np.testing.assert_allclose(np.unique(out), [0, 1 / (1 - rate)], rtol=1e-6)
    # 32,000 draws: five standard deviations.
    assert abs((out == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / out.size)


def test_nothing_is_dropped_outside_training():
    np.testing.assert_array_equal(masks(KEYS, train=False), 1)


def test_a_loss_with_dropout_is_the_mean_of_its_parts():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, t, train):
            return nn.Dropout(0.5, deterministic=not train)(nn.Conv(1, (1, 1))(x))

    x = jax.random.normal(jax.random.key(1), (8, 4, 4, 1))
    params = Net().init(jax.random.key(2), x, 0, False)["params"]
    loss = denoising_loss(Process(Linear(), "eps"), Net().apply)
    whole, _ = loss(params, KEYS, {"image": x})
    parts = [loss(params, KEYS[i : i + 2], {"image": x[i : i + 2]})[0] for i in range(0, 8, 2)]
    np.testing.assert_allclose(whole, np.mean(parts), rtol=1e-6)

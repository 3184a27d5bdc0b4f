"""Ancestral sampling's three variances, one step at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, linear_betas

from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.randomness import normal, sample_keys
from diffjax.samplers.ddpm import DDPM
from diffjax.schedules.linear import Linear

KEYS = sample_keys(jax.random.key(0), 0, 2)
SHAPE = (4, 4, 1)
X = 0.7 * normal(KEYS, SHAPE)
INDEX = 400


def learnt(fraction):
    """The exact denoiser, which says this of the variance."""

    def denoise(x, t):
        prediction = Gaussian(Linear()).denoise(x, t)
        return prediction._replace(fraction=fraction * jnp.ones_like(x))

    return denoise


def step(variance, fraction=0.0, start=INDEX + 1, to=INDEX):
    t, s = (jnp.asarray(i / 1000, jnp.float32) for i in (start, to))
    return DDPM(variance).step(Linear(), learnt(fraction), KEYS, X, (), t, s)[0]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_learned_is_nichol_and_dhariwals(fraction):
    """Eq. 15, exp(v log beta + (1 - v) log beta_tilde), from betas in float64."""
    betas = linear_betas()
    alpha_bar = np.cumprod(1 - betas)
    beta = betas[INDEX]
    tilde = beta * (1 - alpha_bar[INDEX - 1]) / (1 - alpha_bar[INDEX])
    std = np.exp((fraction * np.log(beta) + (1 - fraction) * np.log(tilde)) / 2)
    t = jnp.asarray((INDEX + 1) / 1000, jnp.float32)
    eps = np.asarray(Gaussian(Linear()).denoise(X, t).eps, np.float64)
    mean = (X - beta / np.sqrt(1 - alpha_bar[INDEX]) * eps) / np.sqrt(1 - beta)
    wanted = mean + std * np.asarray(normal(KEYS, SHAPE))
    np.testing.assert_allclose(step("learned", fraction), wanted, atol=2e-6)


def test_its_ends_are_small_and_large_over_long_steps_too():
    small, large = (step(variance, to=100) for variance in ("small", "large"))
    assert float(jnp.abs(small - large).max()) > 0.5
    np.testing.assert_allclose(step("learned", 0.0, to=100), small, atol=1e-5)
    np.testing.assert_allclose(step("learned", 1.0, to=100), large, atol=1e-5)


@pytest.mark.parametrize("index", [1, 2, 5, INDEX, 998])
def test_previous_is_the_course_s(index):
    """sqrt(beta) of index - 1, counted from 0, where the step is from index to index - 1."""
    times = {"start": index + 1, "to": index}
    noise = np.asarray(step("previous", **times) - step("small", **times))
    betas = linear_betas()
    alpha_bar = np.cumprod(1 - betas)
    tilde = betas[index] * (1 - alpha_bar[index - 1]) / (1 - alpha_bar[index])
    wanted = np.sqrt(betas[index - 1]) - np.sqrt(tilde)
    # A float32 time tells where the step before began to 3e-5 of its length.
    np.testing.assert_allclose(noise, wanted * np.asarray(normal(KEYS, SHAPE)), atol=1e-5)


def test_previous_over_a_long_step_is_of_one_as_long():
    alpha_bar = np.cumprod(1 - linear_betas())
    noise = step("previous", start=900, to=700) - step("small", start=900, to=700)
    small = (1 - alpha_bar[899] / alpha_bar[699]) * (1 - alpha_bar[699]) / (1 - alpha_bar[899])
    wanted = np.sqrt(1 - alpha_bar[699] / alpha_bar[499]) - np.sqrt(small)
    np.testing.assert_allclose(noise, wanted * np.asarray(normal(KEYS, SHAPE)), atol=1e-5)


@pytest.mark.parametrize("variance", ["small", "large", "learned", "previous"])
def test_the_last_step_adds_no_noise(variance):
    x0 = Gaussian(Linear()).denoise(X, jnp.asarray(1e-3)).x0
    np.testing.assert_allclose(step(variance, 0.5, start=1, to=0), x0, atol=1e-6)


def test_a_network_of_twice_the_channels_tells_it():
    process = Process(Linear(), learned_variance=True)

    def apply(variables, x, index):
        return jnp.concatenate([x, 2 * 0.25 * jnp.ones_like(x) - 1], axis=-1)

    prediction = process.denoiser(apply, {})(X, jnp.asarray(0.4))
    np.testing.assert_array_equal(prediction.eps, X)
    np.testing.assert_allclose(prediction.fraction, 0.25)


def test_learned_is_refused_where_nothing_is_learnt():
    with pytest.raises(UserError, match="choose small or large"):
        DDPM("learned").check(Process(Linear()))
    DDPM("learned").check(Process(Linear(), learned_variance=True))
    DDPM("large").check(Process(Linear()))

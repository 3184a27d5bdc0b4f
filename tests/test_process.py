"""The forward process against the Markov chain it sums up, and Bayes' rule."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import linear_betas

from diffjax.guidance import clip_x0
from diffjax.process import Process, posterior
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.linear import Linear
from diffjax.typing import Prediction

RNG = np.random.default_rng(0)
X0, EPS = (jnp.asarray(RNG.uniform(-1, 1, (3, 4, 4, 2)), jnp.float32) for _ in range(2))
TIMES = jnp.asarray([0.001, 0.4, 1.0])


def test_forward_moments_are_the_chains():
    """Mean and variance of x_t, step by step: x' = sqrt(1 - beta) x + sqrt(beta) eps."""
    mean, variance = 1.0, 0.0
    process = Process(Linear())
    for i, beta in enumerate(linear_betas()):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if i in (0, 10, 499, 999):
            t = jnp.full((3,), (i + 1) / 1000)
            ones, zeros = jnp.ones_like(X0), jnp.zeros_like(X0)
            np.testing.assert_allclose(process.q_sample(ones, zeros, t), mean, rtol=2e-6)
            std = process.q_sample(zeros, ones, t)
            np.testing.assert_allclose(std**2, variance, rtol=5e-6)


@pytest.mark.parametrize("index", [0, 1, 17, 500, 999])
def test_posterior_is_bayes(index):
    """q(x_s | x_t, x0) as the product of two Gaussians in x_s, one step apart, in float64."""
    betas = linear_betas()
    beta, alpha_bar = betas[index], np.append(1.0, np.cumprod(1 - betas))[index]
    x, x0 = np.asarray(EPS, np.float64), np.asarray(X0, np.float64)
    if index == 0:
        mean, variance = x0, 0.0
    else:
        precision = (1 - beta) / beta + 1 / (1 - alpha_bar)
        variance = 1 / precision
        mean = variance * (np.sqrt(1 - beta) / beta * x + np.sqrt(alpha_bar) / (1 - alpha_bar) * x0)
    t, s = (jnp.asarray(i / 1000, jnp.float32) for i in (index + 1, index))
    got_mean, got_variance = posterior(Linear(), X0, EPS, t, s)
    np.testing.assert_allclose(got_mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got_variance, variance, rtol=1e-4)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_targets_round_trip(schedule, target):
    """What the network should say of q_sample(x0, eps, t) is read back as x0 and eps."""
    process = Process(schedule, target)
    x = process.q_sample(X0, EPS, TIMES)
    x0, eps, _ = process.to_prediction(process.target_of(X0, EPS, TIMES), x, TIMES)
    # At t = 1 an eps tells little of x0, nor an x0 of eps at the first step: errors divide by it.
    alpha, sigma = (np.asarray(c).reshape(3, 1, 1, 1) for c in schedule.alpha_sigma(TIMES))
    assert np.all(np.abs(x0 - X0) * (alpha if target == "eps" else 1) < 2e-6)
    assert np.all(np.abs(eps - EPS) * (sigma if target == "x0" else 1) < 2e-6)


@given(st.floats(1e-3, 1.0), st.sampled_from(["eps", "x0", "v"]))
def test_every_prediction_adds_up_to_x(t, target):
    """x = alpha x0 + sigma eps holds whatever the network says."""
    process = Process(Cosine(), target)
    time = jnp.asarray(t, jnp.float32)
    x0, eps, _ = process.to_prediction(X0, EPS, time)
    alpha, sigma = process.schedule.alpha_sigma(time)
    scale = 1 + float(jnp.max(jnp.abs(alpha * x0)) + jnp.max(jnp.abs(sigma * eps)))
    assert float(jnp.max(jnp.abs(alpha * x0 + sigma * eps - EPS))) < 1e-6 * scale


def test_v_is_the_angular_velocity():
    """With alpha = cos φ and sigma = sin φ, v = dx/dφ (Salimans & Ho 2022, appendix D)."""
    alpha, sigma = Cosine().alpha_sigma(jnp.asarray(0.37))
    phi = float(jnp.arctan2(sigma, alpha))
    x = [np.cos(p) * np.asarray(X0) + np.sin(p) * np.asarray(EPS) for p in (phi - 1e-3, phi + 1e-3)]
    v = Process(Cosine(), "v").target_of(X0, EPS, jnp.asarray(0.37))
    np.testing.assert_allclose(v, (x[1] - x[0]) / 2e-3, atol=1e-3)


def test_model_time_is_ddpms_index():
    index = Process(Linear()).model_time(jnp.asarray([0.001, 0.5, 1.0]))
    np.testing.assert_allclose(index, [0, 499, 999], atol=1e-4)


def test_clipped_predictions_still_add_up():
    schedule = Linear()
    x0 = jnp.linspace(-3, 3, 96).reshape(3, 4, 4, 2)
    t = jnp.asarray(0.5)
    alpha, sigma = schedule.alpha_sigma(t)

    def denoise(x, t):
        return Prediction(x0, (x - alpha * x0) / sigma)

    clipped = clip_x0(denoise, schedule)(EPS, t)
    assert float(jnp.max(jnp.abs(clipped.x0))) == 1.0
    np.testing.assert_allclose(alpha * clipped.x0 + sigma * clipped.eps, EPS, atol=1e-6)

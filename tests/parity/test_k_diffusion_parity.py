"""Samplers beside k-diffusion's and Karras et al.'s formulas, on x over alpha in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.randomness import fold_in, normal, sample_keys
from diffjax.samplers.dpmpp_3m_sde import DPMpp3MSDE
from diffjax.samplers.edm import EDMSampler
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.linear import Linear
from diffjax.spacings.karras import Karras
from diffjax.spacings.trailing import Trailing
from diffjax.typing import Prediction

pytestmark = pytest.mark.parity

SHAPE = (2, 4, 4, 3)


def denoised(y, sigma, xp):
    """A stand-in for D(y; sigma) preconditioned as Karras et al.'s (2022, eq. 7): D(y; 0) = y."""
    whole = xp.sqrt(0.25 + sigma**2)
    output = xp.sin(2 * y / whole + 0.3 * xp.log(sigma)) * 0.8
    return 0.25 / whole**2 * y + 0.5 * sigma / whole * output


@functools.cache
def compiled(ours, schedule):
    def denoise(x, t):
        alpha, sigma = schedule.alpha_sigma(t)
        x0 = denoised(x / alpha, sigma / alpha, jnp)
        return Prediction(x0, (x - alpha * x0) / sigma)

    return jax.jit(functools.partial(ours.step, schedule, denoise))


def walk(ours, schedule, times, keys, y):
    """Ours, in float32: x after each step, over alpha."""
    x = schedule.alpha_sigma(times[0])[0] * jnp.asarray(y, jnp.float32)
    memory, states = ours.init(x, jnp.asarray(1000)), []
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        x, memory = compiled(ours, schedule)(fold_in(keys, i), x, memory, t, s)
        states.append(np.asarray(x / schedule.alpha_sigma(s)[0]))
    return states


def churn(sigmas, y, noises, s_churn, s_min, s_max, s_noise):
    """Karras et al. 2022, algorithm 2, line by line."""
    states, count = [], len(sigmas) - 1
    for i, (sigma, after) in enumerate(itertools.pairwise(sigmas)):
        gamma = min(s_churn / count, np.sqrt(2) - 1) if s_min <= sigma <= s_max else 0.0
        raised = sigma + gamma * sigma
        y = y + np.sqrt(raised**2 - sigma**2) * s_noise * noises[i]
        slope = (y - denoised(y, raised, np)) / raised
        moved = y + (after - raised) * slope
        if after:
            slope_after = (moved - denoised(moved, after, np)) / after
            moved = y + (after - raised) * (slope + slope_after) / 2
        y = moved
        states.append(y)
    return states


def three(sigmas, y, noises, eta):
    """k-diffusion's sample_dpmpp_3m_sde; a list of past values in place of its names."""
    states, past = [], []
    for i, (sigma, after) in enumerate(itertools.pairwise(sigmas)):
        clean = denoised(y, sigma, np)
        if after == 0:
            states.append(clean)
            break
        h = np.log(sigma) - np.log(after)
        scaled = h * (1 + eta)
        y = np.exp(-scaled) * y - np.expm1(-scaled) * clean
        phi_2 = np.expm1(-scaled) / scaled + 1
        phi_3 = phi_2 / scaled - 0.5
        if past:
            r0 = past[-1][1] / h
            first = (clean - past[-1][0]) / r0
        if len(past) == 1:
            y = y + phi_2 * first
        elif past:
            r1 = past[-2][1] / h
            change = first - (past[-1][0] - past[-2][0]) / r1
            y = y + phi_2 * (first + change * r0 / (r0 + r1)) - phi_3 * change / (r0 + r1)
        y = y + noises[i] * after * np.sqrt(-np.expm1(-2 * h * eta))
        past.append((clean, h))
        states.append(y)
    return states


def both(ours, formula, schedule, times, **options):
    """The gap between them after each step, over the largest of the formula's values there."""
    times = jnp.asarray(times)
    keys, steps = sample_keys(jax.random.key(0), 0, SHAPE[0]), len(times) - 1
    sigmas = np.asarray(schedule.sigma_ve(times), np.float64)
    y = np.asarray(normal(fold_in(keys, 10**6), SHAPE[1:]), np.float64) * sigmas[0]
    noises = [np.asarray(normal(fold_in(keys, i), SHAPE[1:]), np.float64) for i in range(steps)]
    theirs = formula(sigmas, y, noises, **options)
    mine = walk(ours, schedule, times, keys, y)
    assert len(mine) == len(theirs) == steps
    return [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(mine, theirs, strict=True)]


@pytest.mark.parametrize("steps", [1, 5, 10, 50])
@pytest.mark.parametrize("spacing", [Karras(), Trailing()], ids=["karras", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_dpmpp_3m_sde(steps, spacing, eta):
    times = spacing.times(Linear(), steps)
    assert max(both(DPMpp3MSDE(eta), three, Linear(), times, eta=eta)) < 1e-4


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 5, 10, 50])
@pytest.mark.parametrize("s_churn", [0.0, 3.0, 80.0])
def test_edm(schedule, steps, s_churn):
    options = {"s_churn": s_churn, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}
    times = Karras().times(schedule, steps)
    assert max(both(EDMSampler(**options), churn, schedule, times, **options)) < 1e-4


def test_edm_on_its_own_schedule():
    """There the least noise is that of t = 0, which the sampler cannot see: gamma is 0.1% off."""
    options = {"s_churn": 3.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}
    times = Karras().times(EDM(), 50)
    assert max(both(EDMSampler(**options), churn, EDM(), times, **options)) < 5e-3

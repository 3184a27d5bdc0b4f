"""Schedules against products of betas in float64, and what all of them must keep."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import linear_betas

import diffjax.schedules
from diffjax import spec
from diffjax.errors import UserError
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.linear import Linear

EVERY = [spec.build(name, diffjax.schedules) for name in spec.names(diffjax.schedules)]
every = pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)


def test_linear_table_is_ddpms():
    alpha_bar = np.cumprod(1 - linear_betas())
    alpha, sigma = Linear().alpha_sigma(jnp.arange(1, 1001) / 1000)
    np.testing.assert_allclose(np.asarray(alpha, np.float64) ** 2, alpha_bar, rtol=3e-6)
    np.testing.assert_allclose(np.asarray(sigma, np.float64) ** 2, 1 - alpha_bar, rtol=3e-6)


def test_terminal_signal_of_short_linear_schedules():
    """The course's T=150 leaves 22% of the signal in what is taken for pure noise."""
    left = [float(Linear(steps=steps).alpha_sigma(jnp.ones(()))[0] ** 2) for steps in (150, 400)]
    np.testing.assert_allclose(left, [0.219, 0.0175], rtol=5e-3)


def test_cosine_follows_its_formula():
    t = np.arange(1, 1000) / 1000
    f = np.cos((np.append(0, t) + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha, _ = Cosine().alpha_sigma(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(np.asarray(alpha) ** 2, f[1:] / f[0], rtol=1e-5)


@every
def test_ends_and_order(schedule):
    t = jnp.linspace(0, 1, 4001)
    log_snr = schedule.log_snr(t)
    chex.assert_shape(log_snr, (4001,))
    assert bool(jnp.all(jnp.diff(log_snr) < 0)), "log-SNR falls in t"
    alpha, sigma = schedule.alpha_sigma(t)
    chex.assert_tree_all_finite((alpha, sigma))
    if schedule.variance_preserving:
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)
    assert (float(alpha[0]), float(sigma[0])) == (1.0, 0.0), "t = 0 is clean, exactly"
    assert float(alpha[-1] / sigma[-1]) < 0.1
    assert schedule.zero_terminal == (float(alpha[-1]) < 1e-8)


@every
def test_continuous_below_the_first_step(schedule):
    first = 1 / schedule.steps
    _, at = schedule.alpha_sigma(jnp.asarray(first))
    _, below = schedule.alpha_sigma(jnp.asarray(first * (1 - 1e-4)))
    np.testing.assert_allclose(below, at, rtol=1e-3)


@given(st.integers(1, 3000))
def test_any_number_of_steps(steps):
    for schedule in (Linear(steps=steps), Cosine(steps=steps)):
        values = schedule.alpha_sigma(jnp.asarray([0.0, 0.5 / steps, 1 / steps, 0.37, 1.0]))
        assert all(np.isfinite(v).all() for v in values)


@every
def test_jit_gives_the_same(schedule):
    t = jnp.linspace(0, 1, 7)
    chex.assert_trees_all_close(jax.jit(schedule.alpha_sigma)(t), schedule.alpha_sigma(t))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear(beta_start=0.03)", "0 < beta_start <= beta_end < 1"),
        ("linear(steps=0)", "at least one step"),
        ("cosine(max_beta=1.5)", "max_beta < 1"),
        ("cosin", "did you mean 'cosine'"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message):
        spec.build(text, diffjax.schedules)

"""The forward process against the Markov chain it sums up, and Bayes' rule."""

import re
from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Gaussian, Mixture, linear_betas

from diffjax.errors import UserError
from diffjax.guidance import clip_x0
from diffjax.process import Process, posterior
from diffjax.randomness import normal, sample_keys
from diffjax.samplers.base import sample
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.laplace import Laplace
from diffjax.schedules.linear import Linear
from diffjax.schedules.monotone import Monotone
from diffjax.schedules.scaled_linear import ScaledLinear
from diffjax.schedules.shifted_cosine import ShiftedCosine
from diffjax.schedules.sigmoid import Sigmoid
from diffjax.schedules.variance_exploding import VarianceExploding
from diffjax.spacings.trailing import Trailing
from diffjax.typing import Prediction, Target

RNG = np.random.default_rng(0)
X0, EPS = (jnp.asarray(RNG.uniform(-1, 1, (3, 4, 4, 2)), jnp.float32) for _ in range(2))
TIMES = jnp.asarray([0.001, 0.4, 1.0])

LEGAL = {
    **dict.fromkeys(
        [Linear(), ScaledLinear(), Cosine(), Sigmoid(), ShiftedCosine(), Monotone()],
        ("eps", "x0", "v", "score", "edm"),
    ),
    **dict.fromkeys(
        [Linear(zero_terminal_snr=True), Cosine(zero_terminal_snr=True), Laplace()],
        ("x0", "v", "edm"),
    ),
    **dict.fromkeys([EDM(), VarianceExploding()], ("eps", "x0", "score", "edm")),
    **dict.fromkeys([Flow(), Flow(shift=3.0)], ("x0", "velocity", "edm")),
}
PAIRS = [(schedule, target) for schedule in LEGAL for target in get_args(Target)]
GOOD = [(schedule, target) for schedule, target in PAIRS if target in LEGAL[schedule]]
BAD = [pair for pair in PAIRS if pair not in GOOD]


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


def worst(gap, size):
    """The largest of |gap|, an image at a time, over what its size lets one expect."""
    return float(np.max(np.abs(np.asarray(gap)) / np.asarray(size)))


def columns(schedule, t, x):
    """alpha and sigma in float64, ready to broadcast over x."""
    return (np.asarray(c, np.float64).reshape(-1, 1, 1, 1) for c in schedule.alpha_sigma(t))


times = st.one_of(st.sampled_from([1e-3, 1.0]), st.floats(1e-3, 1.0))


@pytest.mark.parametrize(("schedule", "target"), GOOD)
@settings(max_examples=6)
@given(st.lists(times, min_size=3, max_size=3), st.booleans())
def test_every_legal_pair_round_trips(schedule, target, t, together):
    """What the network should say of q_sample(x0, eps, t) is read back as x0 and eps."""
    process = Process(schedule, target)
    t = jnp.asarray(t[0] if together else t, jnp.float32)
    x = process.q_sample(X0, EPS, t)
    x0, eps, fraction = process.to_prediction(process.target_of(X0, EPS, t), x, t)
    assert fraction is None
    alpha, sigma = columns(schedule, t, x)
    assert worst(x - (alpha * X0 + sigma * EPS), alpha + sigma) < 3e-7
    # Near t = 1 an eps tells little of x0, near t = 0 an x0 little of eps: errors divide by it.
    assert worst(x0 - X0, 1 + (sigma / alpha if target in ("eps", "score") else 0)) < 3e-6
    assert worst(eps - EPS, 1 + (alpha / sigma if target == "x0" else 0)) < 3e-6


@pytest.mark.parametrize(("schedule", "target"), GOOD)
@settings(max_examples=3)
@given(times)
def test_every_prediction_adds_up_to_x(schedule, target, t):
    """x = alpha x0 + sigma eps holds whatever the network says."""
    t = jnp.asarray(t, jnp.float32)
    x0, eps, _ = Process(schedule, target).to_prediction(X0, EPS, t)
    alpha, sigma = columns(schedule, t, EPS)
    scale = 1 + np.max(np.abs(alpha * x0)) + np.max(np.abs(sigma * eps))
    assert worst(alpha * x0 + sigma * eps - EPS, scale) < 1e-6


@pytest.mark.parametrize(("schedule", "target"), GOOD)
def test_at_no_noise_and_at_no_signal(schedule, target):
    process, zero, one = Process(schedule, target), jnp.zeros(()), jnp.ones(())
    np.testing.assert_array_equal(process.q_sample(X0, EPS, zero), X0)
    if target != "score":  # which is infinite where there is no noise
        chex.assert_tree_all_finite(process.target_of(X0, EPS, zero))
    if schedule.zero_terminal:
        np.testing.assert_allclose(process.q_sample(X0, EPS, one), EPS, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 4, 4, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("time_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("schedule", "target"), GOOD)
def test_bfloat16_stays_finite(schedule, target, time_dtype, shape):
    process = Process(schedule, target)
    x0, eps = (c[: shape[0], : shape[1], : shape[2], : shape[3]] for c in (X0, EPS))
    x0, eps = x0.astype(jnp.bfloat16), eps.astype(jnp.bfloat16)
    t = TIMES[-shape[0] :].astype(time_dtype)
    x = process.q_sample(x0, eps, t)
    output = process.target_of(x0, eps, t).astype(jnp.bfloat16)
    prediction = process.to_prediction(output, x.astype(jnp.bfloat16), t)
    for values in (x, output, *prediction[:2], process.model_input(x, t)):
        chex.assert_shape(values, shape)
        chex.assert_tree_all_finite(values)


@pytest.mark.parametrize(("schedule", "target"), BAD)
def test_every_illegal_pair_is_refused_and_the_legal_named(schedule, target):
    with pytest.raises(UserError, match=f"^target {target} .*: choose ") as caught:
        Process(schedule, target)
    named = re.split(", | or ", str(caught.value).partition(": choose ")[2])
    assert sorted(named) == sorted(LEGAL[schedule])


@pytest.mark.parametrize("schedule", [EDM(), Linear(), Flow()])
@pytest.mark.parametrize("t", [0.01, 0.6, 0.97])
def test_edms_preconditioning(schedule, t):
    """D(x; sigma) = c_skip x + c_out F(c_in x), Karras et al. 2022, table 1, in float64."""
    with jax.enable_x64(True):
        process, t = Process(schedule, "edm", sigma_data=0.4), jnp.asarray(t, jnp.float64)
        alpha, noise = (np.float64(c) for c in schedule.alpha_sigma(t))
        sigma, sigma_data = noise / alpha, 0.4
        x, output = (np.asarray(c, np.float64) for c in (X0, EPS))
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / np.sqrt(sigma_data**2 + sigma**2)
        c_in = 1 / np.sqrt(sigma**2 + sigma_data**2)
        noisy = jnp.asarray(alpha * x)  # theirs over alpha is ours
        got = process.to_prediction(jnp.asarray(output), noisy, t)
        assert got.x0.dtype == jnp.float64
        np.testing.assert_allclose(got.x0, c_skip * x + c_out * output, rtol=1e-9)
        np.testing.assert_allclose(process.model_input(noisy, t), c_in * x, rtol=1e-12)
        # Their training target, eq. 8: (y - c_skip (y + n)) / c_out.
        n = sigma * output
        wanted = (x - c_skip * (x + n)) / c_out
        target = process.target_of(jnp.asarray(x), jnp.asarray(output), t)
        np.testing.assert_allclose(target, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", [Linear(), VarianceExploding(), EDM()])
def test_the_score_is_the_slope_of_the_log_density(schedule):
    """From grad log p(x) of a mixture the process reads its posterior mean."""
    oracle, t = Mixture(schedule), jnp.asarray(0.4)
    x = schedule.alpha_sigma(t)[1] * EPS + X0
    score = jax.grad(lambda x: jnp.sum(oracle.log_prob(x, t)))(x)
    x0, eps, _ = Process(schedule, "score").to_prediction(score, x, t)
    wanted = oracle.denoise(x, t)
    np.testing.assert_allclose(x0, wanted.x0, atol=2e-5)
    np.testing.assert_allclose(eps, wanted.eps, atol=2e-5)
    sigma = float(schedule.alpha_sigma(t)[1])
    target = Process(schedule, "score").target_of(X0, EPS, t)
    np.testing.assert_allclose(target, -EPS / sigma, rtol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_velocity_is_what_x_moves_with(shift):
    """dx/du = eps - x0, u the flow's own time: with a shift t runs differently."""
    process = Process(Flow(shift=shift), "velocity")
    for t in (0.0, 0.3, 1.0):
        t = jnp.asarray(t)
        one = jnp.ones(())
        _, moved = jax.jvp(lambda t: process.q_sample(X0, EPS, t), (t,), (one,))
        _, hastened = jax.jvp(lambda t: process.schedule.alpha_sigma(t)[1], (t,), (one,))
        np.testing.assert_allclose(process.target_of(X0, EPS, t), moved / hastened, atol=1e-5)


def test_learned_variance_is_read_from_the_second_half():
    """-1 is the posterior's variance, 1 the forward step's (Nichol & Dhariwal 2021, eq. 15)."""
    plain, learned = Process(Cosine(), "v"), Process(Cosine(), "v", learned_variance=True)
    for raw, fraction in ((-1.0, 0.0), (1.0, 1.0), (0.0, 0.5)):
        output = jnp.concatenate([EPS, jnp.full_like(EPS, raw)], axis=-1)
        got, wanted = learned.to_prediction(output, X0, TIMES), plain.to_prediction(EPS, X0, TIMES)
        wanted = wanted._replace(fraction=np.full(EPS.shape, fraction, np.float32))
        chex.assert_trees_all_equal(got, wanted)


def test_zero_terminal_snr_removes_the_brightness_bias():
    """Images of mean 0.8, sampled from N(0, 1), come out darker where t = 1 has signal left.

    Lin et al. 2024, section 3.1. The course's 150 steps leave 22% of it.
    """
    keys = sample_keys(jax.random.key(0), 0, 500)
    x, means = normal(keys, (4, 4, 1)), {}
    for zero in (False, True):
        schedule = Linear(steps=150, zero_terminal_snr=zero)
        oracle, steps = Gaussian(schedule, mean=0.8, std=0.3), Trailing().times(schedule, 50)
        out, _ = sample(DDIM(), schedule, oracle.denoise, keys, x, jnp.asarray(steps))
        means[zero] = float(out.mean())
        # What is exact of x, taken to t = 0 along the flow.
        assert abs(means[zero] - float(oracle.flow(x, 1.0).mean())) < 0.01
    error = 5 * 0.3 / np.sqrt(x.size)  # five standard errors
    assert abs(means[True] - 0.8) < error
    assert means[False] < 0.8 - 0.1


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

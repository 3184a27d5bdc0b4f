"""Likelihoods against closed forms: exact densities, sums over bins, and SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from oracles import Gaussian, Mixture, linear_betas

import diffjax.schedules
from diffjax import spec
from diffjax.likelihood.bounds import continuous_bound, discrete_bound, log_snr_times
from diffjax.likelihood.flow import flow_log_prob, flow_nll, uniform_nll
from diffjax.likelihood.measure import Effort, bits_per_dim, estimate, make_measure
from diffjax.process import Process
from diffjax.randomness import fold_in, sample_keys
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.variance_exploding import VarianceExploding
from diffjax.typing import Prediction
from diffjax.variational_terms import gaussian_nll, last_std, levels_nll, prior_kl, step_kl

SHAPE, DIMS = (2, 2, 1), 4
LEVELS = np.arange(256) / 127.5 - 1
FIRST = 1e-4  # early enough for what it leaves out to be far below the error of the draws
TERMS = ("prior", "diffusion", "reconstruction")


def keys_of(count):
    return sample_keys(jax.random.key(0), 0, count)


def three(schedule, denoise, x0, *, draws=100, probes=8, points=41):
    """The continuous bound and the flow's -log-density of continuous images, in nats."""
    times = jnp.asarray(log_snr_times(schedule, FIRST, points))

    @jax.jit
    def compute(keys, x0):
        bound = continuous_bound(schedule, denoise, keys, x0, gaussian_nll, times, draws=draws)
        return bound, flow_nll(schedule, denoise, keys, x0, times, probes=probes)

    return compute(keys_of(len(x0)), x0)


def within(values, exact, most=4.0):
    """Whether the mean of paired differences is 0, in their own standard errors."""
    gap = np.asarray(values, np.float64) - np.asarray(exact, np.float64)
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    assert abs(gap.mean()) < most * error, f"{gap.mean():.4f} off, standard error {error:.4f}"
    return error


# The terms of a bound.


@given(st.floats(-1.5, 1.5), st.floats(-6.0, 3.0))
def test_probabilities_of_the_levels_sum_to_one(mean, log_std):
    """And each is SciPy's, in the tails too."""
    std = np.exp(log_std)
    x0 = jnp.asarray(LEVELS, jnp.float32)[:, None, None, None]
    found = -np.asarray(levels_nll(x0, jnp.full_like(x0, mean), jnp.asarray(std, jnp.float32)))
    edges = (np.append(LEVELS - 1 / 255, np.inf) - mean) / std
    edges[0] = -np.inf
    low, high = edges[:-1], edges[1:]
    turn = low + high > 0
    low, high = np.where(turn, -high, low), np.where(turn, -low, high)
    a, b = scipy.stats.norm.logcdf(low), scipy.stats.norm.logcdf(high)
    exact = b + np.log1p(-np.exp(a - b))
    assert abs(np.exp(found.astype(np.float64)).sum() - 1) < 2e-4
    np.testing.assert_allclose(found, exact, rtol=2e-4, atol=2e-4)


def test_a_levels_gradient_is_finite_where_it_is_as_good_as_impossible():
    x0 = jnp.asarray([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)

    def nll(mean):
        return levels_nll(x0, mean, jnp.asarray(1e-3)).sum()

    slope = jax.grad(nll)(jnp.asarray([1.0, 1.0, -1.0]).reshape(3, 1, 1, 1))
    assert np.isfinite(slope).all()
    assert np.all(np.abs(slope) > 1e5), "all the same it tells the way back"


@pytest.mark.parametrize("fraction", [None, 0.0, 0.3, 1.0])
def test_step_is_the_kl_of_two_gaussians(fraction):
    """From betas, in float64: posterior (Ho et al. 2020, eqs. 6, 7) and the model's step."""
    betas = linear_betas()
    alpha_bar = np.append(1.0, np.cumprod(1 - betas))
    rng = np.random.default_rng(0)
    x0, eps, wrong = (rng.uniform(-1, 1, (1, *SHAPE)) for _ in range(3))
    for i in (2, 30, 700, 1000):
        now, before, beta = alpha_bar[i], alpha_bar[i - 1], betas[i - 1]
        x = np.sqrt(now) * x0 + np.sqrt(1 - now) * eps
        guess = x0 + 0.1 * wrong
        small = beta * (1 - before) / (1 - now)
        # The posterior's mean is linear in x0: what differs between the two means.
        gap = np.sqrt(before) * beta / (1 - now) * (guess - x0)
        model = np.exp((fraction or 0) * np.log(beta) + (1 - (fraction or 0)) * np.log(small))
        exact = 0.5 * (np.log(model / small) + (small + gap**2) / model - 1).sum()
        told = Prediction(
            jnp.asarray(guess, jnp.float32),
            jnp.asarray((x - np.sqrt(now) * guess) / np.sqrt(1 - now), jnp.float32),
            None if fraction is None else jnp.full((1, *SHAPE), fraction),
        )
        t, s = (jnp.asarray([j / 1000], jnp.float32) for j in (i, i - 1))
        truth = (jnp.asarray(a, jnp.float32) for a in (x0, eps))
        np.testing.assert_allclose(step_kl(Linear(), *truth, told, t, s), exact, rtol=2e-3)


def test_the_first_step_from_no_signal_at_all():
    """From t = 1, where eps is all of x and float32's error of it would be multiplied by e^27."""
    x0, guess = (jnp.full((1, *SHAPE), value) for value in (0.5, 0.2))
    eps, (t, s) = 1.7 * jnp.ones_like(x0), (jnp.ones(1), jnp.full(1, 0.999))
    told = Prediction(guess, eps * (1 + 1e-6))
    exact = DIMS * (0.001 / 0.999) ** 2 * 0.3**2 / 2
    np.testing.assert_allclose(step_kl(Flow(), x0, eps, told, t, s), exact, rtol=1e-3)


def test_ends_of_the_last_steps_variance():
    """Learnt, it lies between the second step's posterior variance and the first step's beta."""
    betas = linear_betas()
    posterior = betas[1] * betas[0] / (1 - (1 - betas[0]) * (1 - betas[1]))
    for fraction, variance in ((0.0, posterior), (1.0, betas[0]), (None, betas[0])):
        shape = (1, *SHAPE)
        told = None if fraction is None else jnp.full(shape, fraction)
        std = last_std(
            Linear(), Prediction(jnp.zeros(shape), jnp.zeros(shape), told), jnp.full(1, 1e-3)
        )
        np.testing.assert_allclose(std**2, variance / (1 - betas[0]), rtol=1e-4)


@pytest.mark.parametrize("schedule", [Linear(steps=150), EDM(), Flow()], ids=lambda s: str(s)[:4])
def test_prior_is_the_kl_from_what_samplers_start_with(schedule):
    x0 = np.random.default_rng(0).uniform(-1, 1, (3, *SHAPE))
    alpha, sigma = (float(c) for c in schedule.alpha_sigma(jnp.ones(())))
    exact = ((alpha * x0) ** 2 / (2 * sigma**2)).sum(axis=(1, 2, 3))
    found = prior_kl(schedule, jnp.asarray(x0, jnp.float32), jnp.ones(3))
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-12)


# Continuous images, whose density is known.


@pytest.mark.parametrize(
    "schedule",
    [Cosine(), Flow(), pytest.param(VarianceExploding(), marks=pytest.mark.slow)],
    ids=lambda s: type(s).__name__,
)
def test_bound_and_flow_are_exact_on_a_mixture(schedule):
    """With the exact denoiser nothing lies between the continuous bound and -log p(x0)."""
    oracle = Mixture(schedule)
    x0, _ = oracle.draw(jax.random.key(1), 400, SHAPE)
    bound, flow = three(schedule, oracle.denoise, x0)
    exact = -np.asarray(oracle.log_prob(x0, jnp.zeros(())))
    within(bound.total, exact)
    error = within(flow.mean(axis=0), exact)
    assert error < 0.05, "two hundredths of what images differ by"
    np.testing.assert_allclose(bound.total, sum(getattr(bound, t) for t in TERMS), rtol=1e-6)


def test_all_agree_with_a_gaussians_entropy_within_the_error_they_print():
    """log(2 pi e std²) / 2 a dimension: no image's own value is used."""
    schedule = VarianceExploding()
    oracle = Gaussian(schedule)
    x0 = 0.3 + 0.5 * jax.random.normal(jax.random.key(1), (1000, *SHAPE))
    exact = DIMS / 2 * np.log(2 * np.pi * np.e * 0.25)
    times = jnp.asarray(log_snr_times(schedule, FIRST, 41))

    @jax.jit
    def compute(keys):
        options = (schedule, oracle.denoise, keys, x0)
        return (
            discrete_bound(*options, gaussian_nll, steps=2000, draws=50).total,
            continuous_bound(*options, gaussian_nll, times, draws=50).total,
            flow_nll(*options, times)[0],
        )

    repeats = [compute(fold_in(keys_of(1000), repeat)) for repeat in range(2)]
    for values in zip(*repeats, strict=True):
        mean, error, draws_error = estimate(np.stack(values))
        assert abs(mean - exact) < 4 * error
        assert draws_error < error < 0.1


def test_flow_is_exact_where_every_probe_is():
    """A Gaussian's Jacobian is diagonal, so Rademacher's trace is too: what is left is RK4's.

    Of mean 0, so that the prior, of the same mean, is as good as exact as well.
    """
    x = jax.random.normal(jax.random.key(2), (5, *SHAPE))

    def error(schedule, first, points):
        denoise = Gaussian(schedule, mean=0.0).denoise
        alpha, sigma = (float(c) for c in schedule.alpha_sigma(jnp.asarray(first)))
        std = np.hypot(0.5 * alpha, sigma)
        exact = scipy.stats.norm.logpdf(np.asarray(x), 0, std).sum(axis=(1, 2, 3))
        times = jnp.asarray(log_snr_times(schedule, first, points))
        found = jax.jit(lambda x: flow_log_prob(schedule, denoise, keys_of(5), x, times))(x)
        return np.abs(found - exact).max()

    coarse, fine = (error(VarianceExploding(), FIRST, points) for points in (17, 33))
    assert fine < 2e-3
    assert coarse / fine > 8, f"order 4 in the step: {coarse}, {fine}"
    assert error(Flow(), 0.3, 33) < 2e-3, "where alpha² + sigma² is not 1"


@pytest.mark.parametrize("kind", ["rademacher", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_probes_shrink_the_error_by_their_root(kind):
    """And the error that `estimate` gives is that against the exact density."""
    oracle = Mixture(Cosine())
    x0, _ = oracle.draw(jax.random.key(3), 300, SHAPE)
    alpha, _ = Cosine().alpha_sigma(jnp.asarray(FIRST))
    exact = np.asarray(oracle.log_prob(alpha * x0, jnp.asarray(FIRST)))
    times = jnp.asarray(log_snr_times(Cosine(), FIRST, 41))
    found = np.asarray(
        jax.jit(
            lambda keys, x: flow_log_prob(
                Cosine(), oracle.denoise, keys, x, times, probes=64, kind=kind
            )
        )(keys_of(300), alpha * x0)
    )
    errors = [estimate(found[:probes]).draws_error for probes in (4, 16, 64)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, rtol=0.1)
    for probes, error in zip((4, 16, 64), errors, strict=True):
        gap = found[:probes].mean(axis=0) - exact
        assert abs(gap.mean()) < 4 * error
        np.testing.assert_allclose(np.sqrt(np.mean(gap**2) / 300), error, rtol=0.2)


def test_more_steps_bring_the_discrete_bound_to_the_continuous():
    """Of equal steps in log-SNR each one's excess is as its square, so all of it halves."""
    schedule = VarianceExploding()
    oracle = Mixture(schedule)
    x0, _ = oracle.draw(jax.random.key(1), 200, SHAPE)
    exact = -np.asarray(oracle.log_prob(x0, jnp.zeros(()))).mean()
    excess, counts = [], (32, 64, 128)
    for steps in counts:
        bounds = jax.jit(
            lambda keys, x0, steps=steps: (
                discrete_bound(schedule, oracle.denoise, keys, x0, gaussian_nll, steps=steps).total
            )
        )
        total = np.mean([bounds(fold_in(keys_of(200), repeat), x0) for repeat in range(8)])
        excess.append(total - exact)
    slope = np.polyfit(np.log(counts), np.log(excess), 1)[0]
    assert abs(slope + 1) < 0.15, f"{slope:.3f}, {excess}"


def test_some_of_the_steps_stand_for_all():
    """Whichever are drawn, their mean is that of all, and near it."""
    oracle = Gaussian(Linear())
    x0 = 0.3 + 0.5 * jax.random.normal(jax.random.key(1), (2000, *SHAPE))

    @jax.jit
    def compute(keys):
        options = (Linear(), oracle.denoise, keys, x0, gaussian_nll)
        return [discrete_bound(*options, steps=40, draws=draws).diffusion for draws in (8, None)]

    some, every = compute(keys_of(2000))
    assert within(some, every) < 0.1


# 8-bit images.


def quantised(std, count=1000):
    """8-bit images of a Gaussian of mean 0.1."""
    x = 0.1 + std * np.random.default_rng(0).normal(size=(count, *SHAPE))
    return np.clip(np.round((x + 1) * 127.5), 0, 255) / 127.5 - 1


def test_bounds_on_8_bit_images():
    """Of a quantised Gaussian: the sum over pixels of the logarithm of a bin's probability."""
    x0 = quantised(0.25)
    low, high = (scipy.stats.norm.cdf(x0 + side / 255, 0.1, 0.25) for side in (-1, 1))
    exact = -np.log(high - low).sum(axis=(1, 2, 3))
    times = jnp.asarray(log_snr_times(Linear(), 1e-3, 41))
    found = jax.jit(
        lambda keys, x0: (
            continuous_bound(
                Linear(),
                Gaussian(Linear(), 0.1, 0.25).denoise,
                keys,
                x0,
                levels_nll,
                times,
                draws=100,
            ).total
        )
    )(keys_of(len(x0)), jnp.asarray(x0, jnp.float32))
    within(found, exact)


def test_flow_on_8_bit_images():
    """The mean over each bin of -log-density is known of a Gaussian, narrow enough to see it."""
    x0, times = quantised(0.03, 4000), jnp.asarray(log_snr_times(Linear(), 1e-3, 41))
    variance = 0.03**2 + float(Linear().sigma_ve(jnp.asarray(1e-3))) ** 2
    square = (x0 - 0.1) ** 2 + (2 / 255) ** 2 / 12
    exact = (np.log(2 * np.pi * variance) + square / variance) / 2 - np.log(2 / 255)
    found = jax.jit(
        lambda keys, x0: uniform_nll(
            Linear(), Gaussian(Linear(), 0.1, 0.03).denoise, keys, x0, times
        )
    )(keys_of(len(x0)), jnp.asarray(x0, jnp.float32))
    assert within(found[0], exact.sum(axis=(1, 2, 3))) < 0.006


def test_units():
    """Images of which nothing is known take their 8 bits a dimension, to the last one."""
    nats = jnp.full(3, DIMS * np.log(256.0))
    np.testing.assert_allclose(bits_per_dim(nats, DIMS), np.full(3, 8.0), rtol=1e-6)
    x0 = jnp.asarray(LEVELS, jnp.float32)[1:-1, None, None, None]
    # A bin of the middle, of a normal density that hardly changes over all of them.
    bits = bits_per_dim(levels_nll(x0, jnp.zeros_like(x0), jnp.asarray(50.0)), 1)
    exact = -scipy.stats.norm.logpdf(LEVELS[1:-1], 0, 50) / np.log(2) - np.log2(2 / 255)
    np.testing.assert_allclose(bits, exact, rtol=1e-3)


# What is said of many images.


def test_standard_errors_are_those_of_their_parts():
    """Images differ by 3, draws by 2: both make up the one error, the draws alone the other."""
    rng = np.random.default_rng(0)
    images, repeats = 20_000, 4
    values = 1.5 + 3 * rng.normal(size=images) + 2 * rng.normal(size=(repeats, images))
    mean, error, draws_error = estimate(values)
    assert error == pytest.approx(np.sqrt((9 + 4 / repeats) / images), rel=0.03)
    assert draws_error == pytest.approx(np.sqrt(4 / repeats / images), rel=0.03)
    assert abs(mean - 1.5) < 4 * error


def linear_apply(variables, x, t, labels):
    """A network with a class: its v is what an image of that class's grey would have it be."""
    return variables["params"] * x - labels[:, None, None, None] * jnp.ones_like(x)


def test_batches_labels_and_seeds():
    """An image's values are its own: its label counts, the batch that it came in does not."""
    images = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.float32) / 127.5 - 1
    labels = np.array([0, 1, 0, 1, 0], np.int32)
    effort = Effort(steps=10, draws=2, ode_steps=2)
    measure = make_measure(linear_apply, Process(Cosine(), "v"), jnp.asarray(0.1), effort)
    whole, cut = measure(images, labels, 0, 5), measure(images, labels, 0, 2)
    terms = {f"{b} {t}" for b in ("discrete", "continuous") for t in ("total", *TERMS)} | {"flow"}
    assert whole.keys() == cut.keys() == terms
    for name in terms:
        assert whole[name].shape == (2, 5)
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-5)
    other, again = measure(images, 1 - labels, 0, 5), measure(images, labels, 1, 5)
    for name in ("discrete diffusion", "continuous diffusion", "flow"):
        for different in (other[name][0], again[name][0], whole[name][1]):
            assert np.all(different != whole[name][0])


# Times.


@pytest.mark.parametrize("name", spec.names(diffjax.schedules))
def test_times_are_even_in_log_snr(name):
    schedule = spec.build(name, diffjax.schedules)
    times = log_snr_times(schedule, 1 / schedule.steps, 21)
    log_snr = np.asarray(schedule.log_snr(jnp.asarray(times)), np.float64)
    assert times[0] == np.float32(1 / schedule.steps)
    assert times[-1] <= 1
    np.testing.assert_allclose(np.diff(log_snr), (log_snr[-1] - log_snr[0]) / 20, rtol=0.05)
    assert log_snr[-1] < -4 or times[-1] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, jnp.float32) for name in spec.names(diffjax.schedules)] + [("flow", jnp.bfloat16)],
)
def test_every_schedule_is_finite(name, dtype):
    """Whatever the network says, in its own precision, at every time from 1 / T to 1."""
    schedule = spec.build(name, diffjax.schedules)
    target = next(t for t in ("v", "x0") if t == "x0" or schedule.variance_preserving)
    images = np.asarray(LEVELS[[0, 127, 255, 80]], np.float32).reshape(1, *SHAPE)

    def apply(variables, x, t):
        return jnp.sin(3 * x.astype(dtype))

    for effort in (Effort(steps=1), Effort(steps=20, draws=10_000, ode_steps=3, probes=2)):
        measure = make_measure(apply, Process(schedule, target), {}, effort)
        found = measure(images, None, 0, 1)
        for term, values in found.items():
            assert np.isfinite(values).all(), term

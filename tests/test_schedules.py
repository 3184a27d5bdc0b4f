"""Schedules against products of betas in float64, and what all of them must keep."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import linear_betas
from scipy import special, stats

import diffjax.schedules
from diffjax import spec
from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.flow import Flow
from diffjax.schedules.laplace import Laplace
from diffjax.schedules.linear import Linear
from diffjax.schedules.monotone import Monotone
from diffjax.schedules.scaled_linear import ScaledLinear
from diffjax.schedules.shifted_cosine import ShiftedCosine
from diffjax.schedules.sigmoid import Sigmoid


def learnt(schedule, seed=0, scale=1.0):
    """A bound schedule whose parameters are `scale` away from where they begin."""
    params = schedule.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    leaves = [
        leaf + scale * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return schedule.bind({"schedule": jax.tree.unflatten(tree, leaves)})


EVERY = [
    *(spec.build(name, diffjax.schedules) for name in spec.names(diffjax.schedules)),
    Linear(zero_terminal_snr=True),
    ScaledLinear(zero_terminal_snr=True),
    Cosine(zero_terminal_snr=True),
    Flow(shift=3.0),
    ShiftedCosine(size=256),
    Sigmoid(start=0.0, tau=0.5),
    Laplace(mu=1.0, b=2.0),
]
every = pytest.mark.parametrize("schedule", EVERY, ids=spec.render)


def test_linear_table_is_ddpms():
    alpha_bar = np.cumprod(1 - linear_betas())
    alpha, sigma = Linear().alpha_sigma(jnp.arange(1, 1001) / 1000)
    np.testing.assert_allclose(np.asarray(alpha, np.float64) ** 2, alpha_bar, rtol=3e-6)
    np.testing.assert_allclose(np.asarray(sigma, np.float64) ** 2, 1 - alpha_bar, rtol=3e-6)


def test_terminal_signal_of_short_linear_schedules():
    """The course's T=150 leaves 22% of the signal in what is taken for pure noise."""
    left = [float(Linear(steps=steps).alpha_sigma(jnp.ones(()))[0] ** 2) for steps in (150, 400)]
    np.testing.assert_allclose(left, [0.219, 0.0175], rtol=5e-3)


def zero_terminal(alpha_bar):
    """Lin et al. 2024, algorithm 1."""
    root = np.sqrt(alpha_bar)
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)) ** 2


def cosine_alpha_bar(steps=1000):
    """Nichol & Dhariwal 2021, eq. 17, with betas cut at 0.999."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def chen_sigmoid(t, start=-3.0, end=3.0, tau=1.0):
    """Chen 2023, algorithm 1."""
    first, last = special.expit(start / tau), special.expit(end / tau)
    output = last - special.expit((t * (end - start) + start) / tau)
    return np.clip(output / (last - first), 1e-9, 1.0)


def hoogeboom_cosine(t, size=64):
    """Hoogeboom et al. 2023, section 3.1, between log-SNRs of 15 and -15 before the shift."""
    first, last = np.arctan(np.exp(-7.5)), np.arctan(np.exp(7.5))
    log_snr = -2 * np.log(np.tan(first + t * (last - first))) + 2 * np.log(64 / size)
    return special.expit(log_snr)


GRID = np.float64(np.float32(np.arange(1, 1001) / 1000))  # 1 - t is read off float32 times
SCALED = np.cumprod(1 - np.linspace(8.5e-4**0.5, 0.012**0.5, 1000) ** 2)
TABLES = [
    (Linear(), np.cumprod(1 - linear_betas())),
    (Linear(zero_terminal_snr=True), zero_terminal(np.cumprod(1 - linear_betas()))),
    (ScaledLinear(), SCALED),
    (ScaledLinear(zero_terminal_snr=True), zero_terminal(SCALED)),
    (Cosine(), cosine_alpha_bar()),
    (Cosine(zero_terminal_snr=True), zero_terminal(cosine_alpha_bar())),
    (Cosine(steps=50), cosine_alpha_bar(50)),
    (Sigmoid(), chen_sigmoid(GRID)),
    (Sigmoid(start=0.0, end=3.0, tau=0.3), chen_sigmoid(GRID, 0.0, 3.0, 0.3)),
    (ShiftedCosine(), hoogeboom_cosine(GRID)),
    (ShiftedCosine(size=256), hoogeboom_cosine(GRID, 256)),
    (Laplace(), special.expit(stats.laplace.ppf(1 - GRID, 0, 0.5))),
    (Laplace(mu=1.5, b=0.3), special.expit(stats.laplace.ppf(1 - GRID, 1.5, 0.3))),
]


@pytest.mark.parametrize(("schedule", "alpha_bar"), TABLES, ids=[spec.render(s) for s, _ in TABLES])
def test_published_formulas(schedule, alpha_bar):
    """alpha_bar and 1 - alpha_bar, in float64 where there is a table, and through float32."""
    if hasattr(schedule, "log_snr_table"):
        table = schedule.log_snr_table
        np.testing.assert_allclose(special.expit(table), alpha_bar, rtol=1e-9, atol=1e-17)
        np.testing.assert_allclose(special.expit(-table), 1 - alpha_bar, rtol=1e-9)
    t = np.arange(1, len(alpha_bar) + 1) / len(alpha_bar)
    alpha, sigma = (np.asarray(c, np.float64) for c in schedule.alpha_sigma(jnp.asarray(t)))
    # A float32 log-SNR of size n is 6e-8 n off.
    size = 1 + np.abs(np.log(np.maximum(alpha_bar, 1e-17) / (1 - alpha_bar)))
    np.testing.assert_array_less(np.abs(alpha**2 - alpha_bar), 6e-7 * size * alpha_bar + 1e-17)
    np.testing.assert_array_less(np.abs(sigma**2 / (1 - alpha_bar) - 1), 6e-7 * size)


def test_pooling_noise_undoes_the_shift():
    """2x2 means of twice the height: 4 times the SNR (Hoogeboom et al. 2023, section 3.1)."""
    t = jnp.linspace(0.1, 1, 10)
    small, large = (ShiftedCosine(size=size).log_snr(t) for size in (64, 128))
    np.testing.assert_allclose(np.exp(small - large), 4.0, rtol=1e-5)


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
    assert float(log_snr[-1]) >= -40
    assert schedule.zero_terminal == (float(alpha[-1]) < 1e-8)


@every
def test_continuous_below_the_first_step(schedule):
    first = 1 / schedule.steps
    _, at = schedule.alpha_sigma(jnp.asarray(first))
    _, below = schedule.alpha_sigma(jnp.asarray(first * (1 - 1e-4)))
    np.testing.assert_allclose(below, at, rtol=1e-3)


@settings(max_examples=25)
@given(st.integers(1, 3000), st.booleans())
def test_any_number_of_steps(steps, zero):
    for kind in (Linear, ScaledLinear, Cosine):
        schedule = kind(steps=steps, zero_terminal_snr=zero and steps > 1)
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
        ("cosine(steps=1, zero_terminal_snr=True)", "choose 2 steps or more"),
        ("scaled_linear(beta_start=0.0)", "0 < beta_start <= beta_end < 1"),
        ("sigmoid(start=4.0)", "choose start < end"),
        ("sigmoid(tau=0.0)", "0 < tau"),
        ("laplace(b=0.0)", "0 < b"),
        ("laplace(mu=-31.0)", "mu between -30 and 30"),
        ("shifted_cosine(size=0)", "heights in pixels"),
        ("shifted_cosine(size=512, log_snr_min=-29.0)", "choose -25.8 < log_snr_min"),
        ("monotone(log_snr_min=20.0)", "-30 < log_snr_min < log_snr_max"),
        ("monotone(width=0)", "choose 1 or more"),
        ("monotone(learnt=1)", "has no option 'learnt'"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message):
        spec.build(text, diffjax.schedules)


@every
def test_the_slope_is_a_number(schedule):
    """Also at t = 1, where alpha may be 0; into t = 0 a log-SNR may fall infinitely fast."""
    ends = [jax.grad(schedule.log_snr)(t) for t in (jnp.asarray(0.0), jnp.asarray(1.0))]
    assert not np.isnan(ends[0])
    assert np.isfinite(ends[1])
    t = jnp.asarray(0.3 + 0.5 / schedule.steps)  # a table's slope is not told at its steps
    high, low = (float(schedule.log_snr(t + h)) for h in (-1e-4, 1e-4))
    np.testing.assert_allclose(jax.grad(schedule.log_snr)(t), (low - high) / 2e-4, rtol=0.02)


@every
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_time_gives_no_number(schedule, dtype):
    t = jnp.asarray([0.0, 1e-30, 1e-6, 0.5 / schedule.steps, 1 / schedule.steps, 0.5, 1.0], dtype)
    assert np.isfinite(np.asarray(schedule.log_snr(t[1:]), np.float32)).all()
    alpha, sigma = (np.asarray(c, np.float32) for c in schedule.alpha_sigma(t))
    assert np.isfinite(alpha).all()
    assert np.isfinite(sigma).all()
    assert (alpha[0], sigma[0]) == (1, 0)


@every
@settings(max_examples=4)
@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_time_at_is_the_inverse_of_sigma_ve(schedule, shares):
    shares = np.asarray(shares)
    times = np.float32(1e-4 + shares * (1 - 1e-4))
    back = schedule.time_at(schedule.sigma_ve(jnp.asarray(times)))
    np.testing.assert_allclose(back, times, atol=1e-6)
    low, high = np.log(schedule.noise_range())
    wanted = np.exp(low + shares * (min(high, np.log(80)) - low))
    at = np.asarray(schedule.time_at(jnp.asarray(wanted, jnp.float32)), np.float64)
    # Of float32 times no one has just this noise: it lies between that of two near ones.
    less, more = (schedule.sigma_ve(jnp.asarray(np.clip(at + h, 0, 1))) for h in (-2e-7, 2e-7))
    np.testing.assert_array_less(less, wanted * (1 + 3e-6))
    np.testing.assert_array_less(wanted * (1 - 3e-6), more)


@pytest.mark.parametrize("kind", [Linear, ScaledLinear, Cosine])
def test_zero_terminal_snr_refuses_what_says_nothing_of_the_image(kind):
    for target in ("eps", "score"):
        Process(kind(), target)
        with pytest.raises(UserError, match=f"{target} says nothing.*choose x0, v or edm"):
            Process(kind(zero_terminal_snr=True), target)
    assert kind(zero_terminal_snr=True).log_snr_table[0] == pytest.approx(kind().log_snr_table[0])


def test_monotone_is_linear_before_it_is_learnt():
    t = jnp.linspace(0.01, 1, 9)
    np.testing.assert_allclose(Monotone().log_snr(t), 13.3 - 18.3 * t, rtol=1e-6)
    begun = Monotone().bind({"schedule": Monotone().init(jax.random.key(0))})
    np.testing.assert_allclose(begun.log_snr(t), 13.3 - 18.3 * t, atol=0.5)
    np.testing.assert_allclose(begun.log_snr(t[-1]), -5.0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_monotone_falls_whatever_is_learnt(scale):
    log_snr = learnt(Monotone(width=16), 3, scale).log_snr(jnp.linspace(0, 1, 101))
    assert float(log_snr[0]) == np.inf
    assert np.isfinite(log_snr[1:]).all()
    # Ends that are learnt to be far apart are cut at no signal.
    assert (np.diff(log_snr)[log_snr[1:] > -40] < 0).all()


def test_monotone_is_the_same_object_to_specs_and_hashes():
    bound = learnt(Monotone())
    assert bound == Monotone()
    assert hash(bound) == hash(Monotone())
    assert spec.render(bound) == "monotone()"
    assert spec.build("monotone(width=8)", diffjax.schedules) == Monotone(width=8)
    assert bound.log_snr(jnp.asarray(0.5)) != Monotone().log_snr(jnp.asarray(0.5))
    for schedule in (Linear(), Monotone()):
        assert schedule.bind({"Conv_0": {}}) is schedule
    assert Linear().init(jax.random.key(0)) is None
    process = Process(Monotone()).bind({"schedule": Monotone().init(jax.random.key(0))})
    assert process.schedule.learnt is not None


def test_monotone_learns():
    """It comes to follow a cosine's log-SNR, through jit, with a gradient at every t."""
    schedule, t = Monotone(width=32), jnp.linspace(0, 1, 41)
    wanted = ShiftedCosine(log_snr_min=-6.0, log_snr_max=9.0).log_snr(t[1:])

    def loss(params):
        bound = schedule.bind({"schedule": params})
        assert bound.learnt is params
        ends = sum(jnp.sum(c) for c in bound.alpha_sigma(t))  # t = 0 included: no NaN may come back
        return jnp.mean((bound.log_snr(t[1:]) - wanted) ** 2) + 0 * ends

    @jax.jit
    def fit(params):
        tx = optax.adam(0.1)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            finite = jnp.all(jnp.asarray([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]))
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), (value, finite)

        return jax.lax.scan(step, (params, tx.init(params)), length=300)[1]

    losses, finite = fit(schedule.init(jax.random.key(0)))
    assert finite.all()
    assert losses[-1] < 0.02 * losses[0], (losses[0], losses[-1])

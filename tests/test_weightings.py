"""Weights against their papers' formulas in float64, and one loss whatever is predicted."""

import typing

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

import diffjax.schedules
import diffjax.weightings
from diffjax import spec
from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.typing import Target
from diffjax.weightings.base import rate

NAMES = spec.names(diffjax.weightings)
EVERY = [spec.build(name, diffjax.weightings) for name in NAMES]
SCHEDULES = [spec.build(name, diffjax.schedules) for name in spec.names(diffjax.schedules)]
TIMES = np.array([0.001, 0.02, 0.3, 0.77, 0.995])


def legal(schedule):
    """The processes that the schedule can have, one a target."""
    found = []
    for target in typing.get_args(Target):
        try:
            found.append(Process(schedule, target))
        except UserError:
            continue
    return found


def flow(t):
    """SNR and -d log_snr / dt of the straight line, in float64."""
    return ((1 - t) / t) ** 2, 2 / (t * (1 - t))


def karras(snr, sigma_data):
    sigma = 1 / np.sqrt(snr)
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


# Of x0's squared error at a flow's times.
PAPERS = {
    "min_snr": lambda t: np.minimum(flow(t)[0], 5),
    "min_snr(gamma=0.5)": lambda t: np.minimum(flow(t)[0], 0.5),
    "p2": lambda t: flow(t)[0] / (1 + flow(t)[0]),
    "p2(gamma=0.5,k=2)": lambda t: flow(t)[0] / (2 + flow(t)[0]) ** 0.5,
    "truncated_snr": lambda t: np.maximum(flow(t)[0], 1),
    "edm": lambda t: karras(flow(t)[0], 0.5),
    "edm(sigma_data=0.2)": lambda t: karras(flow(t)[0], 0.2),
    # Li & He 2025, with 1 - t for their t.
    "velocity": lambda t: 1 / np.maximum(t, 0.05) ** 2,
    "velocity(least_sigma=0.0)": lambda t: 1 / t**2,
    # Hoogeboom et al. 2024 write it so, exp(bias) sigmoid(log_snr - bias) of x0.
    "sigmoid(bias=-1)": lambda t: np.exp(-1) * expit(np.log(flow(t)[0]) + 1) * flow(t)[1],
    # Kingma et al. 2021, eq. 13: -1/2 dSNR/dt of x0, and dSNR = SNR dlog_snr.
    "variational": lambda t: flow(t)[0] * flow(t)[1] / 2,
}


@pytest.mark.parametrize("text", PAPERS)
def test_papers_weight_of_x0(text):
    weighting = spec.build(text, diffjax.weightings)
    got = weighting.of_target(Process(Flow(), "x0"), jnp.asarray(TIMES, jnp.float32))
    np.testing.assert_allclose(got, PAPERS[text](TIMES), rtol=1e-5)


def test_every_weighting_has_a_paper_and_comes_back_from_its_spec():
    assert {text.partition("(")[0] for text in PAPERS} | {"simple"} == set(NAMES)
    for weighting in EVERY:
        assert spec.build(spec.render(weighting), diffjax.weightings) == weighting


@pytest.mark.parametrize("target", ["eps", "x0", "v", "score", "edm"])
def test_simple_is_one_of_whatever_is_predicted(target):
    simple = spec.build("simple", diffjax.weightings)
    weight = simple.of_target(Process(Cosine(), target), jnp.asarray(TIMES))
    np.testing.assert_array_equal(weight, 1)


def test_velocity_of_x0_is_jits_loss():
    """Their z = t x + (1 - t) e and v = (x - z) / (1 - t), with what is predicted for x."""
    rng, process = np.random.default_rng(0), Process(Flow(), "x0")
    x, e, said = rng.normal(size=(3, 5, 4, 4, 1))
    clean = (1 - TIMES).reshape(5, 1, 1, 1)
    z = clean * x + (1 - clean) * e
    error = ((x - z) - (said - z)) / np.maximum(1 - clean, 0.05)
    weight = spec.build("velocity", diffjax.weightings).of_target(process, jnp.asarray(TIMES))
    found = np.asarray(weight) * ((x - said) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found, (error**2).mean((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("schedule", [Linear(), Flow(shift=2.0), EDM()], ids=spec.render)
@pytest.mark.parametrize("weighting", [w for w in EVERY if spec.render(w) != "simple()"])
def test_the_same_prediction_has_the_same_loss_by_every_target(schedule, weighting):
    rng = np.random.default_rng(0)
    x0, eps, said = (jnp.asarray(rng.normal(size=(3, 4, 4, 1)), jnp.float32) for _ in range(3))
    t = jnp.asarray([0.05, 0.4, 0.9])
    losses = []
    for process in legal(schedule):
        x = process.q_sample(x0, eps, t)
        alpha, sigma = (c.reshape(3, 1, 1, 1) for c in schedule.alpha_sigma(t))
        output = process.target_of(said, (x - alpha * said) / sigma, t)
        error = (output - process.target_of(x0, eps, t)) ** 2
        losses.append(weighting.of_target(process, t) * error.mean(axis=(1, 2, 3)))
    assert len(losses) >= 3
    for loss in losses[1:]:
        np.testing.assert_allclose(loss, losses[0], rtol=2e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=spec.render)
def test_finite_at_both_ends(schedule):
    t = jnp.asarray([1e-30, 1e-7, 1e-3, 0.5, 1 - 6e-8, 1.0])
    for process in legal(schedule):
        for weighting in EVERY:
            weight = np.asarray(weighting.of_target(process, t))
            assert np.isfinite(weight).all(), (process.target, weighting, weight)
            assert (weight >= 0).all()


def test_limits_where_no_signal_is_left():
    """At t = 1 of a flow alpha is 0, and truncated SNR is 1 of x0, which there says velocity."""
    t = jnp.ones(1)
    weighting = spec.build("truncated_snr", diffjax.weightings)
    for target in ("x0", "velocity"):
        got = weighting.of_target(Process(Flow(), target), t)
        np.testing.assert_allclose(got, 1, rtol=1e-5)


@given(st.floats(0.002, 0.999), st.floats(0.1, 10.0))
def test_rate_is_the_slope(t, shift):
    """Of a flow shifted, -d log_snr/dt = 2 / (t (1 - t)) whatever the shift."""
    got = rate(Flow(shift=shift), jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(got, 2 / (t * (1 - t)), rtol=1e-3)


def test_rate_of_a_table_is_its_differences():
    schedule = Linear()
    log_snr = schedule.log_snr_table
    between = jnp.asarray((np.array([1, 500, 998]) + 0.5) / 1000, jnp.float32)
    got = rate(schedule, between)
    wanted = [1000 * (log_snr[i - 1] - log_snr[i]) for i in (1, 500, 998)]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_snr(gamma=0.0)", "gamma above 0"),
        ("p2(k=0.0)", "k > 0"),
        ("p2(gamma=-1.0)", "gamma >= 0"),
        ("edm(sigma_data=-1.0)", "above 0"),
        ("velocity(least_sigma=1.0)", "up to, but not, 1"),
        ("min_snar", "did you mean 'min_snr'"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message):
        spec.build(text, diffjax.weightings)

"""Samplers of flows, and predictor-corrector: what is special to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

import diffjax.samplers
from diffjax import spec
from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.randomness import fold_in, normal, sample_keys
from diffjax.samplers.base import sample
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.euler import Euler
from diffjax.samplers.flow_euler import FlowEuler
from diffjax.samplers.flow_heun import FlowHeun
from diffjax.samplers.predictor_corrector import PredictorCorrector
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.spacings.trailing import Trailing

SHAPE = (4, 4, 1)
KEYS = sample_keys(jax.random.key(0), 0, 2)
X = normal(KEYS, SHAPE)


@pytest.mark.parametrize("schedule", [Flow(), Flow(shift=3.0)], ids=spec.render)
@pytest.mark.parametrize("sampler", [FlowEuler(), FlowHeun()], ids=spec.render)
def test_order_from_noise_to_image(sampler, schedule):
    """From t = 1 to 0 exactly: on a flow the last step is as long as any, Heun's Euler or not."""
    oracle, errors, counts = Gaussian(schedule), [], np.array([16, 32, 64])
    run = jax.jit(
        lambda times: sample(sampler, schedule, oracle.denoise, KEYS, X, times)[0], inline=True
    )
    # Filled up with zeros, so that it compiles once.
    for n in counts:
        times = np.pad(Trailing().times(schedule, int(n)), (0, 64 - n))
        gap = run(jnp.asarray(times)) - oracle.flow(X, 1.0)
        errors.append(float(jnp.sqrt(jnp.mean(gap**2))))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert abs(slope - sampler.order) < 0.15, f"order {slope:.2f}, errors {errors}"


def test_one_step_by_hand():
    """x + dsigma v, and x + dsigma (v + v') / 2, in float64 with the Gaussian's velocity."""

    def velocity(x, sigma):
        x0 = 0.3 + (1 - sigma) * 0.25 / ((1 - sigma) ** 2 * 0.25 + sigma**2) * (
            x - (1 - sigma) * 0.3
        )
        return (x - x0) / sigma

    x, oracle = np.asarray(X, np.float64), Gaussian(Flow())
    t, s = jnp.asarray(0.8), jnp.asarray(0.5)
    euler = x - 0.3 * velocity(x, 0.8)
    heun = x - 0.3 * (velocity(x, 0.8) + velocity(euler, 0.5)) / 2
    for sampler, wanted in ((FlowEuler(), euler), (FlowHeun(), heun)):
        got, _ = sampler.step(Flow(), oracle.denoise, KEYS, X, (), t, s)
        np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize("target", ["velocity", "x0", "edm"])
def test_flow_heun_asks_nothing_at_no_noise(target):
    """nfe counts what is called: the step to t = 0 calls once, and is a number for each target."""
    process, calls = Process(Flow(), target), []

    def count(t):
        calls.append(float(t))

    def denoise(x, t):
        jax.debug.callback(count, t)
        return process.to_prediction(jnp.sin(x), x, t)

    times = jnp.asarray(Trailing().times(Flow(), 3))
    out, _ = sample(FlowHeun(), Flow(), denoise, KEYS, X, times)
    jax.effects_barrier()
    assert np.isfinite(out).all()
    assert len(calls) == FlowHeun().nfe(3) == 5
    assert min(calls) > 0.3
    assert FlowEuler().nfe(3) == 3


@pytest.mark.parametrize("schedule", [Linear(), EDM()])
@pytest.mark.parametrize(("sampler", "instead"), [(FlowEuler(), "euler"), (FlowHeun(), "heun")])
def test_other_schedules_are_refused(sampler, instead, schedule):
    name = type(schedule).__name__
    with pytest.raises(UserError, match=f"needs schedule flow, not {name}: .*sampler {instead}"):
        sampler.check(Process(schedule))
    sampler.check(Process(Flow(shift=2.0), "velocity"))
    assert instead in spec.names(diffjax.samplers)
    spec.build(instead, diffjax.samplers).check(Process(schedule))


def test_flow_euler_is_euler():
    times = jnp.asarray(Trailing().times(Flow(), 4))
    flow, euler = (
        sample(s, Flow(), Gaussian(Flow()).denoise, KEYS, X, times)[0]
        for s in (FlowEuler(), Euler())
    )
    np.testing.assert_array_equal(flow, euler)


@pytest.mark.parametrize("schedule", [Linear(), EDM(), Flow()], ids=spec.render)
def test_langevin_steps_lead_to_the_marginal_and_stay(schedule):
    """Mean and spread by each step's closed form, a line in x; where it stays they are right."""
    oracle, t, snr = Gaussian(schedule), jnp.asarray(0.4), 0.3
    alpha, sigma = (float(c) for c in schedule.alpha_sigma(t))
    marginal = alpha**2 * 0.25 + sigma**2
    rate = 2 * (snr * sigma) ** 2 / marginal
    keys = sample_keys(jax.random.key(1), 0, 1000)
    start, mean, variance = 2 * sigma + 1, 2 * sigma + 1 - alpha * 0.3, 0.0
    sampler = PredictorCorrector(snr=snr)

    def correct(i, x):
        return sampler.correct(schedule, oracle.denoise, fold_in(keys, i), x, t)

    x = jnp.full((1000, *SHAPE), start, jnp.float32)
    for steps in (1, 80):
        x = jax.lax.fori_loop(0, steps, correct, x)
        for _ in range(steps):
            mean *= 1 - rate
            variance = (1 - rate) ** 2 * variance + 2 * rate * marginal
        error = 5 * np.sqrt(variance / x.size)  # five standard errors
        assert abs(float(x.mean()) - alpha * 0.3 - mean) < error
        assert abs(float(x.std()) - np.sqrt(variance)) < error
    # After all of them: the right mean, and a spread that the step's size widens by rate / 4.
    assert abs(mean) < 0.01 * np.sqrt(marginal)
    assert abs(np.sqrt(variance / marginal) - 1) < rate / 2


def test_corrections_mend_what_few_steps_spoil():
    """Ten ancestral steps leave too narrow a spread; corrections bring it nearer to the data's."""
    keys = sample_keys(jax.random.key(0), 0, 1000)
    x, times = normal(keys, SHAPE), jnp.asarray(Trailing().times(Linear(), 10))
    gaps = []
    for sampler in (DDIM(eta=1.0), PredictorCorrector(4, snr=0.3)):
        out, _ = sample(sampler, Linear(), Gaussian(Linear()).denoise, keys, x, times)
        gaps.append(0.5 - float(out.std()))
    assert gaps[0] > gaps[1] + 0.015  # five standard errors
    assert PredictorCorrector(4).nfe(10) == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("predictor_corrector(corrections=0)", "choose 1 or more; none is euler_ancestral"),
        ("predictor_corrector(snr=0.0)", "between 0 and 1"),
        ("predictor_corrector(snr=1.5)", "between 0 and 1"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message):
        spec.build(text, diffjax.samplers)

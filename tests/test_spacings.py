"""Every spacing on every schedule, and the noise levels that are published."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffjax.schedules
import diffjax.spacings
from diffjax import spec
from diffjax.errors import UserError
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.scaled_linear import ScaledLinear
from diffjax.spacings.align_your_steps import AlignYourSteps
from diffjax.spacings.exponential import Exponential
from diffjax.spacings.karras import Karras
from diffjax.spacings.leading import Leading
from diffjax.spacings.linspace import Linspace
from diffjax.spacings.trailing import Trailing

SPACINGS = [spec.build(name, diffjax.spacings) for name in spec.names(diffjax.spacings)]
SCHEDULES = [
    *(spec.build(name, diffjax.schedules) for name in spec.names(diffjax.schedules)),
    Linear(zero_terminal_snr=True),
    Linear(steps=150),
    Flow(shift=3.0),
]


@pytest.mark.parametrize("spacing", SPACINGS, ids=spec.render)
@settings(max_examples=12)
@given(st.sampled_from(SCHEDULES), st.sampled_from([1, 2, 7, 150]))
def test_contract(spacing, schedule, steps):
    times = spacing.times(schedule, steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == np.float32
    assert (np.diff(times) < 0).all()
    assert 0 < times[0] <= 1
    assert times[-1] == 0
    assert spec.build(spec.render(spacing), diffjax.spacings) == spacing


def levels(schedule, spacing, steps):
    """sigma / alpha at the times, but for the last, which is 0."""
    return schedule.sigma_ve(jnp.asarray(spacing.times(schedule, steps)[:-1]))


@pytest.mark.parametrize("schedule", [EDM(), EDM(rho=3.0), ScaledLinear(), Linear()])
def test_karras_levels(schedule):
    """Karras et al. 2022, eq. 5: i of N steps is at (max^1/7 + i/(N-1) (min^1/7 - max^1/7))^7."""
    low, high = schedule.noise_range()
    high = min(high, 80.0)
    ramp = high ** (1 / 7) + np.arange(7) / 6 * (low ** (1 / 7) - high ** (1 / 7))
    np.testing.assert_allclose(levels(schedule, Karras(), 7), ramp**7, rtol=1e-4)


def test_edms_own_levels():
    """Eighteen steps as in Karras et al.'s table 1: of their own schedule even steps in t."""
    times = Karras().times(EDM(), 18)
    np.testing.assert_allclose(times[:-1], np.arange(17, -1, -1) / 17, atol=1e-6)
    sigmas = np.asarray(levels(EDM(), Karras(), 18))
    np.testing.assert_allclose(sigmas[[0, 17]], [80.0, 0.002], rtol=1e-5)


@pytest.mark.parametrize("schedule", [EDM(), ScaledLinear(), Flow()])
def test_exponential_levels_have_one_ratio(schedule):
    sigmas = levels(schedule, Exponential(), 7)
    low, high = schedule.noise_range()
    np.testing.assert_allclose(sigmas[0], min(high, 80), rtol=1e-4)
    np.testing.assert_allclose(
        sigmas[1:] / sigmas[:-1], (low / min(high, 80)) ** (1 / 6), rtol=1e-3
    )


def test_align_your_steps_levels():
    table = (14.0, 4.0, 1.0, 0.25)
    spacing = AlignYourSteps(table)
    np.testing.assert_allclose(levels(EDM(), spacing, 4), table, rtol=1e-4)
    # Between two levels in the middle of their logarithms.
    between = [14, 56**0.5, 4, 2, 1, 0.5, 0.25]
    np.testing.assert_allclose(levels(EDM(), spacing, 7), between, rtol=1e-4)
    # Short of the schedule's ends, and no level twice.
    _, high = Linear(steps=150).noise_range()
    np.testing.assert_allclose(levels(Linear(steps=150), spacing, 3), [high, 1, 0.25], rtol=1e-4)


def test_times_of_training_steps():
    """Lin et al. 2024, table 2: of 1000 training steps 10, counted from 0."""
    schedule = Linear()
    for spacing, index in (
        (Leading(), [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]),
        (Linspace(), [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]),
        (Trailing(), [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
    ):
        times = spacing.times(schedule, 10)[:-1]
        np.testing.assert_allclose(times * 1000 - 1, index, atol=1e-3)


@pytest.mark.parametrize("spacing", SPACINGS, ids=spec.render)
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(spacing, steps):
    with pytest.raises(UserError, match=f"steps={steps}: take at least one sampling step"):
        spacing.times(Linear(), steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("karras(rho=0.0)", "choose both above 0"),
        ("karras(sigma_max=-1.0)", "choose both above 0"),
        ("exponential(sigma_max=0.0)", "choose it above 0"),
        ("align_your_steps(sigmas=(1.0, 2.0))", "give two or more that fall"),
        ("align_your_steps(sigmas=(2.0, 2.0))", "give two or more that fall"),
        ("align_your_steps(sigmas=(2.0, 0.0))", "give two or more that fall, above 0"),
        ("align_your_steps(sigmas=(2.0,))", "give two or more that fall"),
        ("align_your_steps(sigmas=(2.0, float('nan')))", "a value is a number"),
        ("karas", "did you mean 'karras'"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message) as caught:
        spec.build(text, diffjax.spacings)
    assert "\n" not in str(caught.value)


def test_more_steps_than_there_are_times():
    with pytest.raises(UserError, match=r"leading takes some of the 150 .*spacing trailing"):
        Leading().times(Linear(steps=150), 151)
    assert Leading().times(Linear(steps=150), 150)[0] == 1
    with pytest.raises(UserError, match=r"align_your_steps has fewer different .*fewer steps"):
        AlignYourSteps((0.003, 0.002)).times(Linear(), 2)

"""Laws of the learning rate: what all must keep, and each against its formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffjax.rates
from diffjax import spec
from diffjax.errors import UserError
from diffjax.rates.constant import Constant
from diffjax.rates.cosine import CosineDecay

NAMES = spec.names(diffjax.rates)


def rates(law, steps, warmup=0):
    schedule = law.schedule(0.1, steps, warmup)
    return np.array([float(schedule(i)) for i in range(steps + 1)])


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    """It climbs in a line, is never above its highest, and ends in 0."""
    law = spec.build(name, diffjax.rates)
    assert spec.build(spec.render(law), diffjax.rates) == law
    found = rates(law, 40, 9)
    np.testing.assert_allclose(found[:10], 0.1 * np.arange(1, 11) / 10, rtol=1e-5)
    assert found.max() <= 0.1 * (1 + 1e-6)
    assert abs(found[-1]) < 1e-8
    assert 0 <= law.steady_until(40) <= 40


def test_cosine_is_half_a_cosine():
    wanted = 0.05 * (1 + np.cos(np.pi * np.arange(21) / 20))
    np.testing.assert_allclose(rates(CosineDecay(), 20), wanted, atol=1e-8)


def test_constant_stays_and_then_falls_as_one_minus_the_root():
    wanted = np.where(
        np.arange(21) < 15, 0.1, 0.1 - 0.1 * np.sqrt(np.clip(np.arange(21) - 15, 0, 5) / 5)
    )
    np.testing.assert_allclose(rates(Constant(0.25), 20), wanted, atol=1e-8)
    np.testing.assert_allclose(rates(Constant(0.0), 20)[:-1], 0.1, rtol=1e-6)


@given(st.integers(2, 50), st.integers(2, 50), st.floats(0, 1), st.integers(0, 10))
def test_runs_of_two_lengths_are_alike_until_the_shorter_cools(one, other, cooldown, warmup):
    law = Constant(cooldown)
    alike = min(law.steady_until(one), law.steady_until(other))
    np.testing.assert_array_equal(
        rates(law, one, warmup)[: alike + 1], rates(law, other, warmup)[: alike + 1]
    )


def test_a_share_that_is_none():
    with pytest.raises(UserError, match=r"constant\(cooldown=1.5\)"):
        Constant(1.5)

"""Frequencies of classes are told apart as often as they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffjax.trust.bias import frequency_tests, holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_as_its_steps_say(p_values):
    """In rising order, until one is above 0.05 over the number of those that are left."""
    values = np.asarray(p_values)
    left, rejected = len(values), set()
    for i in values.argsort(kind="stable"):
        if values[i] * left >= 0.05:
            break
        rejected.add(i)
        left -= 1
    assert set(np.nonzero(holm(values) < 0.05)[0]) == rejected


def test_a_class_too_rare_is_found_and_no_other():
    real = np.array([200, 200, 200, 200])
    drawn = np.array([[200, 200, 200, 200], [260, 70, 235, 235]])
    p_values = frequency_tests(drawn, real)
    assert p_values.shape == drawn.shape
    assert p_values[0].min() == 1
    assert p_values[1, 1] < 1e-10
    expected = stats.fisher_exact([[70, 730], [200, 600]]).pvalue
    assert p_values[1, 1] == pytest.approx(8 * expected)


def test_where_nothing_differs_few_are_found():
    rng = np.random.default_rng(0)
    share = np.full(10, 0.1)
    found = [
        frequency_tests(rng.multinomial(500, share), rng.multinomial(1000, share)).min() < 0.05
        for _ in range(200)
    ]
    assert np.mean(found) < 0.09

"""Frequencies of classes are told apart as often as they should be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffjax.metrics.attributes import ATTRIBUTES, attributes_of
from diffjax.trust.bias import attribute_tests, frequency_tests, holm


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


def test_an_attribute_that_differs_is_found_and_no_other():
    rng = np.random.default_rng(0)
    real, drawn = rng.normal(size=(2, 2000)), rng.normal(size=(3, 2, 1000))
    drawn[1, 0] += 0.5
    p_values = attribute_tests(drawn, real)
    assert set(zip(*np.nonzero(p_values < 0.05), strict=True)) == {(1, 0)}
    expected = stats.ks_2samp(drawn[1, 0], real[0]).pvalue
    assert p_values[1, 0] == pytest.approx(6 * expected)


def test_attributes_of_plain_images():
    ramp = np.linspace(-1, 1, 8)[None, None, :, None] * np.ones((1, 6, 1, 3))
    red = np.tile([1.0, -1.0, -1.0], (1, 6, 8, 1))
    even = np.abs(ramp)
    found = attributes_of(np.concatenate([ramp, red, even]).astype(np.float32))
    assert list(found) == list(ATTRIBUTES)
    np.testing.assert_allclose(found["brightness"], [0, -1 / 3, np.abs(ramp).mean()], atol=1e-6)
    np.testing.assert_allclose(found["contrast"], [ramp.std(), 0, even.std()], atol=1e-6)
    np.testing.assert_allclose(found["saturation"], [0, 2, 0], atol=1e-6)
    mirrored = np.corrcoef(ramp.ravel(), ramp[:, :, ::-1].ravel())[0, 1]
    np.testing.assert_allclose(found["symmetry"][[0, 2]], [mirrored, 1], atol=1e-6)
    grey = attributes_of(np.ones((2, 4, 4, 1), np.float32))
    assert "saturation" not in grey
    assert grey["symmetry"].tolist() == [0, 0]


def test_where_nothing_differs_few_are_found():
    rng = np.random.default_rng(0)
    share = np.full(10, 0.1)
    found = [
        frequency_tests(rng.multinomial(500, share), rng.multinomial(1000, share)).min() < 0.05
        for _ in range(200)
    ]
    assert np.mean(found) < 0.09

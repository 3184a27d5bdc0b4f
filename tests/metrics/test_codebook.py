"""Usage and perplexity of codes against closed forms and SciPy."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffjax.errors import UserError
from diffjax.metrics.codebook import code_counts, perplexity, usage


@pytest.mark.parametrize("used", [1, 3, 8])
def test_of_codes_that_are_used_equally_often(used):
    counts = code_counts(np.tile(np.arange(used), (2, 5)), 8)
    assert usage(counts) == used / 8
    assert perplexity(counts) == pytest.approx(used)


def test_of_one_half_and_two_quarters():
    """The entropy is log(2) / 2 + log(4) / 2, so the perplexity is sqrt(8)."""
    assert perplexity(code_counts(np.array([[4, 4], [0, 1]]), 5)) == pytest.approx(8**0.5)


@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 4), st.integers(1, 9)),
                  elements=st.integers(0, 11)))  # fmt: skip
def test_of_any_indices(indices):
    counts = code_counts(indices, 12)
    assert perplexity(counts) == pytest.approx(np.exp(stats.entropy(counts)))
    assert usage(counts) == len(set(indices.ravel().tolist())) / 12
    parts = [code_counts(part, 12) for part in indices]
    np.testing.assert_array_equal(np.sum(parts, axis=0), counts)


def test_refused():
    for indices in ([3], [-1]):
        with pytest.raises(UserError, match="where there are 3 codes"):
            code_counts(np.array(indices), 3)
    for figure in (usage, perplexity):
        with pytest.raises(UserError, match="no codes"):
            figure(code_counts(np.zeros((0, 4), int), 3))

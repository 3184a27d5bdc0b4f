"""Batches of one shape hold every row, in order, and the results of every row are kept."""

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.batches import in_batches, padded


@given(st.integers(0, 50), st.integers(1, 60))
def test_rows_are_in_order_and_begin_anew_after_the_last(count, size):
    batches = list(padded(count, size))
    assert [first for first, _ in batches] == list(range(0, count, size))
    assert all(len(rows) == size for _, rows in batches)
    joined = [row for _, rows in batches for row in rows]
    assert joined[:count] == list(range(count))
    assert joined[count:] == [i % count for i in range(len(joined) - count)]


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_a_function_of_images_compiles_once_for_any_number_of_them(size):
    images = np.random.default_rng(0).normal(size=(7, 2, 3, 1)).astype(np.float32)
    chex.clear_trace_counter()  # it counts by name, over all parameters of this test

    @jax.jit
    @chex.assert_max_traces(1)
    def double(batch):
        return {"double": 2 * batch, "first": batch[:, 0, 0, 0]}

    expected = {"double": 2 * images, "first": images[:, 0, 0, 0]}
    chex.assert_trees_all_equal(in_batches(double, images, size), expected)

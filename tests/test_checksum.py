"""The checksum of weights depends on the weights and their names, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.checksum import checksum

A, B = np.arange(4, dtype=np.float32), np.ones(2, np.float32)
TREE = {"params": {"a": A, "b": B}}


@pytest.mark.parametrize(
    "same",
    [
        {"params": {"b": B, "a": A}},
        {"params": {"a": A.astype(">f4"), "b": B}},
        {"params": {"a": np.stack([A, A], 1)[:, 0], "b": B}},
    ],
    ids=["order", "big end first", "strides"],
)
def test_neither_order_nor_layout_counts(same):
    assert checksum(same) == checksum(TREE)


def test_neither_device_nor_host_counts():
    half = {"a": jnp.arange(4, dtype=jnp.bfloat16)}
    assert checksum(jax.device_put(TREE)) == checksum(TREE)
    assert checksum(half) == checksum(jax.device_get(half))


@pytest.mark.parametrize(
    "other",
    [
        {"params": {"a": A, "b": np.array([1, 1 + 1e-6], np.float32)}},
        {"params": {"a": A, "c": B}},
        {"params": {"a": A.reshape(2, 2), "b": B}},
        {"params": {"a": A, "b": B.view(np.int32)}},
        {"a": A, "b": B},
    ],
    ids=["value", "name", "shape", "dtype", "nesting"],
)
def test_weights_names_and_types_count(other):
    assert checksum(other) != checksum(TREE)

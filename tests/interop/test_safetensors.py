"""Weights in safetensors, read tensor by tensor."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffjax.interop.safetensors import Tensors, entries, read

MEGABYTE = 2**20


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_one_tensor_at_a_time_is_in_memory(tmp_path, dtype):
    rng = np.random.default_rng(0)
    wanted = {f"t{i}": rng.normal(size=(4, MEGABYTE // 16)).astype(dtype) for i in range(10)}
    save_file(wanted, tmp_path / "a.safetensors")
    found = Tensors(entries(tmp_path / "a.safetensors"))
    assert found.keys() == wanted.keys()
    assert len(found) == 10
    tracemalloc.start()
    for name, value in found.items():
        assert value.dtype == np.float32
        assert np.array_equal(value, wanted[name].astype(np.float32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * MEGABYTE  # of 10 in float32


def test_bfloat16_and_no_numbers(tmp_path):
    one = jnp.asarray([1.0, -2.5, 3e38], jnp.bfloat16)
    save_file({"a": np.asarray(one), "b": np.zeros((0, 3), np.float32)}, tmp_path / "a.safetensors")
    found = read(tmp_path / "a.safetensors")
    assert np.array_equal(found["a"], np.asarray(one, np.float32))
    assert found["b"].shape == (0, 3)

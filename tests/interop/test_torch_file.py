"""Files of torch's tensors: what of them is read, and which are refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from diffjax.errors import UserError
from diffjax.interop.torch_file import load_variables


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 1), name="parts.0")(x)
        x = nn.BatchNorm(use_running_average=True, name="parts.1")(x)
        return nn.Dense(2, name="last")(x.mean((1, 2)))


RNG = np.random.default_rng(0)
TENSORS = {
    "parts.0.weight": RNG.normal(size=(4, 3, 3, 1)).astype(np.float32),
    "parts.0.bias": RNG.normal(size=4).astype(np.float32),
    **{
        f"parts.1.{name}": RNG.uniform(1, 2, 4).astype(np.float32)
        for name in ("weight", "bias", "running_mean", "running_var")
    },
    "last.weight": RNG.normal(size=(2, 4)).astype(np.float32),
    "last.bias": RNG.normal(size=2).astype(np.float32),
}
BESIDES = {"fc.weight": np.zeros((3, 2), np.float32)}


def load(path):
    return load_variables(path, Net(), 8, r"fc\..*")


def test_both_formats(tmp_path):
    """Without what torch counts, and without what is of no use here."""
    np.savez(tmp_path / "a.npz", **TENSORS, **BESIDES)
    counter = {"parts.1.num_batches_tracked": np.array(5)}
    save_file({**TENSORS, **BESIDES, **counter}, tmp_path / "a.safetensors")
    for kind in ("npz", "safetensors"):
        found = load(tmp_path / f"a.{kind}")
        params, stats = found["params"], found["batch_stats"]
        expected = TENSORS["parts.0.weight"].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(params["parts.0"]["kernel"], expected)
        np.testing.assert_array_equal(params["parts.1"]["scale"], TENSORS["parts.1.weight"])
        np.testing.assert_array_equal(params["last"]["kernel"], TENSORS["last.weight"].T)
        for name in ("mean", "var"):
            expected = TENSORS[f"parts.1.running_{name}"]
            np.testing.assert_array_equal(stats["parts.1"][name], expected)
        assert Net().apply(found, jnp.ones((1, 5, 6, 3))).shape == (1, 2)


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_of_another_network(tmp_path):
    for tensors, message in (
        (
            {"last.bias": TENSORS["last.bias"]},
            "lacks last.weight and 6 more: it is not of this Net",
        ),
        ({**TENSORS, "AuxLogits.bias": np.zeros(3)}, "unknown AuxLogits.bias"),
        ({**TENSORS, "last.bias": np.zeros(3)}, r"last.bias has shape \(3,\)"),
        ({**TENSORS, "last.bias": np.zeros(2, int)}, "last.bias holds int64"),
        ({**TENSORS, "last.bias": np.array([None, None])}, "cannot read"),
    ):
        np.savez(tmp_path / "a.npz", **tensors)
        refused(tmp_path / "a.npz", message)


def test_files_that_cannot_be_read(tmp_path):
    np.savez(tmp_path / "whole.npz", **TENSORS)
    content = (tmp_path / "whole.npz").read_bytes()
    for name, damaged in (
        ("zip.npz", b"PK no zip"),
        ("text.npz", b"no zip"),
        ("short.npz", content[: len(content) // 2]),
        ("changed.npz", content.replace(TENSORS["last.weight"].tobytes(), bytes(32))),
        ("empty.npz", b""),
        ("short.safetensors", b"\xff" * 9),
    ):
        (tmp_path / name).write_bytes(damaged)
        refused(tmp_path / name, "cannot read|is damaged")
    refused(tmp_path / "none.npz", "cannot read")
    refused(tmp_path / "none.safetensors", "cannot read")
    refused(tmp_path / "weights.pth", "neither .safetensors nor .npz")
    refused(tmp_path, "neither .safetensors nor .npz")

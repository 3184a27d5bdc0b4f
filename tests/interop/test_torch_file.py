"""Files of torch's tensors: what of them is read, and which are refused."""

import io
import json
import struct
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from diffjax.arrays import read_npy, read_npz
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


def member(name="a.npy", content=b"", **change):
    """A .npz file of one member, with fields of its entries overwritten."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    whole = bytearray(file.getvalue())
    for entry, offsets in (
        (b"PK\3\4", {"flag": 6, "method": 8}),
        (b"PK\1\2", {"flag": 8, "method": 10}),
    ):
        for what, value in change.items():
            at = whole.index(entry) + offsets[what]
            whole[at : at + 2] = struct.pack("<H", value)
    return bytes(whole)


def npy(shape, content=b""):
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def safetensors(header, content=b""):
    return struct.pack("<Q", len(header)) + header + content


MEMBER, FIRST = member(content=npy((64,), bytes(256))), 30 + len("a.npy")
HUGE = b'{"a":{"dtype":"F32","shape":[1000000000000000],"data_offsets":[0,4000000000000000]}}'
FOREIGN = {
    "no npy": ("a.npz", member(content=b"none"), "magic string"),
    "no suffix": ("a.npz", member("a.txt"), "a.txt is no .npy"),
    "corrupt deflate": (
        "a.npz",
        MEMBER[:FIRST] + b"\xff" * 8 + MEMBER[FIRST + 8 :],
        "invalid block type",
    ),
    "encrypted": ("a.npz", member(content=npy((1,), bytes(4)), flag=1), "encrypted"),
    "unknown compression": ("a.npz", member(content=npy((1,), bytes(4)), method=99), "compression"),
    "a shape of petabytes": (
        "a.npz",
        member(content=npy((10**15,))),
        "asks for 4,000,000,000,000,000",
    ),
    "objects": ("a.npz", member(content=npy((1,)).replace(b"'<f4'", b"'|O' ")), "Python objects"),
    "version 3": ("a.npz", member(content=b"\x93NUMPY\3\0" + bytes(8)), "version"),
    "a header of petabytes": ("a.safetensors", struct.pack("<Q", 4 * 10**15) + b"{}", "damaged"),
    "a tensor of petabytes": ("a.safetensors", safetensors(HUGE), "damaged"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_others_may_have_written(tmp_path, case):
    name, content, message = FOREIGN[case]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


def test_a_small_file_may_not_hold_much(tmp_path):
    """A megabyte that holds 800 of them: refused before they are there."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(2):
            with archive.open(f"{i}.npy", "w") as file:
                file.write(npy((10**8,)))
                for _ in range(400):
                    file.write(bytes(10**6))
    assert (tmp_path / "a.npz").stat().st_size < 10**6
    tracemalloc.start()
    refused(tmp_path / "a.npz", "and 268,435,456 are the most")
    assert tracemalloc.get_traced_memory()[1] < 10**8
    tracemalloc.stop()


def test_arrays_by_column(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy", 10**3), array)
    np.savez(tmp_path / "a.npz", a=array, b=np.float32(3), c=np.zeros((0, 2)))
    found = read_npz(tmp_path / "a.npz", 10**3)
    np.testing.assert_array_equal(found["a"], array)
    assert (found["b"].shape, found["c"].shape) == ((), (0, 2))


@pytest.mark.parametrize("shard", [[], "", "a\0b", "../a.safetensors", {}])
def test_an_index_of_no_names(tmp_path, shard):
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UserError, match="must name files beside it"):
        load(tmp_path / "a.safetensors")


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

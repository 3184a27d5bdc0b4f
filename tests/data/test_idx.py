"""IDX files, whole and damaged."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from written_data import noise, write_idx, write_mnist

from diffjax.data import epoch
from diffjax.data.contents import described
from diffjax.data.idx import Idx
from diffjax.errors import UserError


def whole(folder, split):
    return next(epoch(Idx(str(folder)).open(split, None), 10**6))


@pytest.mark.parametrize(
    ("suffix", "separator"), [(".gz", "-"), ("", "-"), ("", "."), (".gz", ".")]
)
def test_reads_what_was_written(tmp_path, suffix, separator):
    folder = write_mnist(tmp_path / "set", suffix=suffix, separator=separator)
    for split, count in (("train", 60), ("test", 20)):
        batch = whole(folder, split)
        pixels = noise(count, channels=1, seed=count)
        np.testing.assert_array_equal(np.rint((batch["image"] + 1) * 127.5), pixels)
        assert batch["label"].tolist() == [index % 10 for index in range(count)]


def test_without_t10k_every_tenth_of_a_class_is_held_out(tmp_path):
    folder = write_mnist(tmp_path / "set", train=105, test=0)
    assert whole(folder, "test")["label"].tolist() == [*range(10), *range(5)]
    assert len(whole(folder, "train")["label"]) == 90


def test_the_only_image_of_a_class_is_learnt(tmp_path):
    folder = write_mnist(tmp_path / "set", suffix="", train=25, test=0)
    write_idx(folder / "train-labels-idx1-ubyte", np.asarray([1] + 24 * [0], np.uint8))
    assert whole(folder, "train")["label"].sum() == 1
    records = Idx(str(folder)).open("train", None)
    assert "2 classes: 0 (21), 1 (1); none held out of 1; 3 held out" in described(records)


def test_classes_are_those_of_both_splits(tmp_path):
    folder = write_mnist(tmp_path / "set", suffix="")
    write_idx(folder / "t10k-labels-idx1-ubyte", np.full(20, 25, np.uint8))
    assert Idx(str(folder)).open("train", None).num_classes == 26


def test_home_is_expanded(tmp_path, monkeypatch):
    write_mnist(tmp_path / "set")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(Idx("~/set").open("train", None)) == 60


IMAGES = "train-images-idx3-ubyte"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _cut_header(path):
    path.write_bytes(path.read_bytes()[:9])


def _lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


def _cut_gzip(path):
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])


def _flip_gzip(path):
    data = bytearray(gzip.compress(path.read_bytes()))
    data[-5] ^= 1  # in the checksum
    path.write_bytes(data)


def _break_gzip(path):
    path.write_bytes(gzip.compress(path.read_bytes())[:10] + b"\xff" * 50)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (IMAGES, _cut, f"{IMAGES}' is damaged: 8655 bytes where its header says 8656"),
        (IMAGES, _cut_header, "is damaged: 9 bytes where its header says"),
        (IMAGES, _lengthen, "is damaged: 8657 bytes where its header says 8656"),
        (IMAGES, _cut_gzip, "cannot read .*(end-of-stream|ended)"),
        (IMAGES, _flip_gzip, "cannot read .*CRC"),
        (IMAGES, _break_gzip, "cannot read .*decompressing"),
        (IMAGES, lambda path: path.write_bytes(b""), "begins with nothing and not with 00000803"),
        (IMAGES, lambda path: path.write_bytes(b"\x89PNG" * 9), "begins with 89504e47 and not"),
        (IMAGES, lambda path: write_idx(path, np.zeros(60, np.uint8)), "begins with 00000801"),
        (IMAGES, lambda path: write_idx(path, np.zeros((0, 2, 2), np.uint8)), "is empty: .*0, 2"),
        (IMAGES, lambda path: path.unlink(), f"no {IMAGES} or {IMAGES}.gz in"),
        ("t10k-labels-idx1-ubyte", lambda path: path.unlink(), "no t10k-labels-idx1-ubyte or"),
        (
            "t10k-labels-idx1-ubyte",
            lambda path: write_idx(path, np.zeros(19, np.uint8)),
            "20 t10k images but 19 labels",
        ),
    ],
)
def test_refuses_damage(tmp_path, name, damage, message):
    folder = write_mnist(tmp_path / "set", suffix="")
    damage(folder / name)
    with pytest.raises(UserError, match=message) as caught:
        Idx(str(folder)).open("train", None)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("sizes", [(60, 12, 12), (2**32 - 1,) * 3, (2**16, 2**8, 2**8 + 1)])
def test_a_gzip_bomb_takes_no_memory(tmp_path, sizes):
    """400 MB in less than one, whatever its header says."""
    folder = write_mnist(tmp_path / "set", suffix="")
    header = bytes((0, 0, 8, 3)) + struct.pack(">3I", *sizes)
    with gzip.open(folder / IMAGES, "wb") as file:
        file.write(header)
        for _ in range(400):
            file.write(bytes(1_000_000))
    assert (folder / IMAGES).stat().st_size < 1_000_000
    tracemalloc.start()
    with pytest.raises(UserError, match=rf"{IMAGES}' (is damaged|\(its header says)"):
        Idx(str(folder)).open("train", None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_an_archive_is_refused(tmp_path):
    (tmp_path / "set.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"set\.tar\.gz' is an archive: unpack it first"):
        Idx(str(tmp_path / "set.tar.gz")).open("train", None)


def test_refuses_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"no folder '.*nowhere'"):
        Idx(str(tmp_path / "nowhere")).open("train", None)


def test_real_mnist(real_data):
    """Against figures that are published: the mean of the training images, and the first labels."""
    train = Idx(str(real_data / "mnist_idx")).open("train", None)
    assert (len(train), train.image_shape, train.num_classes) == (60000, (28, 28, 1), 10)
    assert [int(train[index]["label"]) for index in range(5)] == [5, 0, 4, 1, 9]
    batch = next(epoch(train, 10000))
    assert (batch["image"].mean() + 1) / 2 == pytest.approx(0.1307, abs=1e-3)
    assert len(Idx(str(real_data / "mnist_idx")).open("test", None)) == 10000

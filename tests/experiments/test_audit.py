"""Where an image comes from, through the command line."""

import json

import numpy as np
import pytest
from PIL import Image
from programs import program

from diffjax import runs
from diffjax.display.marks import Mark, read_mark


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "ca"
    done = program("audit", "--task=make_ca", f"--out={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def drawn(trained, keys, tmp_path_factory):
    """A folder of two signed images."""
    out = tmp_path_factory.mktemp("drawn")
    done = program(
        "sample", f"--run={trained}", "--num=2", "--steps=3", "--seed=5", f"--sign={keys}",
        f"--out={out}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def digest(run):
    return runs.open_run(run)[1].digest()


def test_pictures_of_training_are_marked(trained):
    (picture, *_) = sorted((trained / "samples").glob("*.png"))
    assert read_mark(picture) == Mark(digest(trained), 0)


def test_credentials_and_mark_of_what_is_drawn(trained, keys, drawn):
    files = [drawn / "images" / "00000.png", drawn / "images" / "00001.png", drawn / "grid.png"]
    given = [f"--file={file}" for file in files]
    done = program("audit", "--task=verify", *given, f"--trust={keys}/root.pem", "--json")
    assert done.returncode == 0, done.stderr
    for file, line in zip(files, done.stdout.splitlines(), strict=True):
        told = json.loads(line)
        assert told["file"] == str(file)
        assert told["state"] == "trusted"
        assert told["mark"] == {"run": digest(trained), "seed": 5, "drawn": "all"}
        (own,) = (a["data"] for a in told["manifest"]["assertions"] if "diffjax" in a["label"])
        assert own["model"] == trained.name
        assert own["seed"] == 5
        assert own["flags"] == ["--num=2", "--seed=5", "--steps=3"]
        assert len(own["checkpoint"]) == 64
        assert str(trained.parent) not in line.replace(str(file), "")


def test_each_state_in_words(keys, drawn, tmp_path):
    Image.open(drawn / "grid.png").save(tmp_path / "again.png")
    data = bytearray((drawn / "grid.png").read_bytes())
    data[-30] ^= 1
    (tmp_path / "changed.png").write_bytes(data)
    files = [drawn / "grid.png", tmp_path / "again.png", tmp_path / "changed.png"]
    done = program("audit", "--task=verify", *(f"--file={file}" for file in files))
    assert done.returncode == 5, done.stderr
    for file, status in zip(files, (3, 4, 5), strict=True):
        assert program("audit", "--task=verify", f"--file={file}").returncode == status
    states = [line.partition(": ")[2] for line in done.stdout.splitlines() if line[:1] != " "]
    assert states == ["valid", "unsigned", "tampered"]
    assert "  seed: 5" in done.stdout
    assert "signingCredential.untrusted" in done.stdout
    assert "assertion.dataHash.mismatch" in done.stdout


def test_marks_can_be_left_out_and_that_is_said(trained, tmp_path):
    done = program(
        "sample", f"--run={trained}", "--num=2", "--steps=3", "--mark=none", f"--out={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert "--mark=none: the pictures do not tell that a model made them" in done.stdout
    assert read_mark(tmp_path / "grid.png") is None
    assert read_mark(tmp_path / "images" / "00000.png") is None


def test_fewer_images_leave_none_of_an_earlier_call(trained, tmp_path):
    for num in (4, 2):
        done = program(
            "sample", f"--run={trained}", f"--num={num}", "--steps=3", f"--out={tmp_path}"
        )
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "images").iterdir())) == 2
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "images" / "00001.png")),
        np.load(tmp_path / "samples.npz")["images"][1, ..., 0],
    )


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("audit", ("--task=verify",), "--task=verify needs --file"),
        ("audit", ("--task=make_ca",), "--task=make_ca needs --out"),
        ("audit", ("--task=make_ca", "--file=a.png"), "--file does nothing without --task="),
        ("audit", ("--task=verify", "--file=missing.png"), "cannot read missing.png"),
        ("audit", ("--task=make_ca", "--out={run}/keys"), "lies in the run"),
        ("sample", ("--run={run}", "--sign={run}/keys"), "lies in the run"),
        ("sample", ("--run={run}", "--sign=/nowhere"), "give a folder of keys"),
    ],
)
def test_what_is_refused(trained, name, flags, message):
    done = program(name, *(flag.format(run=trained) for flag in flags))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (trained / "keys").exists()


def test_a_users_own_images_are_left_alone(trained, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("L", (2, 2)).save(tmp_path / "images" / "00001.png")
    before = (tmp_path / "images" / "00001.png").read_bytes()
    done = program("sample", f"--run={trained}", "--num=1", "--steps=3", f"--out={tmp_path}")
    assert done.returncode == 1
    assert "exists and was not drawn: choose another folder (--out)" in done.stderr
    assert (tmp_path / "images" / "00001.png").read_bytes() == before

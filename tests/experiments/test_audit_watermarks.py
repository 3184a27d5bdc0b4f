"""Watermarks through the command line: drawn, found, and what they withstand."""

import json

import numpy as np
import pytest
from programs import RUN_FLAGS, program

RINGS = "tree_ring(secret='words')"
MESSAGE = "gaussian_shading(secret='words', message=5, bits=4, nonces=16)"


def draw(run, out, *flags):
    done = program("sample", f"--run={run}", "--num=3", "--steps=10", f"--out={out}", *flags)
    assert done.returncode == 0, done.stderr
    return np.load(out / "samples.npz")["images"]


@pytest.mark.parametrize("mark", [RINGS, MESSAGE])
def test_what_was_drawn_with_a_mark_is_found(trained, tmp_path, mark):
    """A network of a few steps hardly knows images: what it draws is still near its noise."""
    images = draw(trained, tmp_path, f"--watermark={mark}")
    other = draw(trained, tmp_path / "other", f"--watermark={mark}", "--batch_size=2")
    np.testing.assert_array_equal(images, other)
    plain = draw(trained, tmp_path / "plain")
    assert (plain != images).any()
    given = [f"--file={tmp_path}/images/0000{i}.png" for i in range(3)]
    done = program(
        "audit", "--task=detect", f"--run={trained}", f"--watermark={mark}", "--json",
        "--steps=10", *given, f"--file={tmp_path}/plain/images/00000.png",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr  # the last is unmarked
    *own, last = (json.loads(line) for line in done.stdout.splitlines())
    assert [told["marked"] for told in own] == [True] * 3
    assert not last["marked"]
    if mark == MESSAGE:
        assert [told["message"] for told in own] == [5] * 3


@pytest.mark.slow
def test_robustness_is_a_table(tmp_path):
    run = tmp_path / "run"
    done = program("ddpm", *RUN_FLAGS, "--num_classes=data", "--steps=2", f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    done = program(
        "audit", "--task=robustness", f"--run={run}", f"--watermark={MESSAGE}", "--num=4",
        "--steps=5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, unchanged, *others, held_out, saved = done.stdout.splitlines()
    assert head.split() == ["change", "AUC", "found", "false", "bits"]
    assert unchanged.split() == ["none", "1.000", "1.000", "0.000", "1.000"]
    assert len(others) == 12
    again, taken, put, reused = (line.rsplit(maxsplit=4) for line in others[-4:])
    assert again[0] == "drawn again from a noisy version"
    assert taken[0] == "attack: mean of the marked taken off"
    assert put[0] == "forgery: mean of the marked put on"
    assert reused[0] == "forgery: another class from its noise"
    assert float(reused[2]) > 0.5  # whoever has the model forges
    assert held_out.startswith("40 held-out images: ")
    assert saved == f"in {run}/audit.json"
    told = json.loads((run / "audit.json").read_text())["robustness"]
    assert len(told["rows"]) == 13
    assert 0 <= told["held_out"]["uniform"] <= 1


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        (
            "audit",
            ("--task=detect", "--run={run}", "--file=a.png"),
            "needs --watermark",
        ),
        ("audit", ("--task=detect", "--file=a.png"), "--task=detect needs --run"),
        ("audit", ("--task=robustness", "--run={run}", "--file=a.png"), "--file does nothing"),
        (
            "sample",
            ("--run={run}", "--sampler=ddpm", f"--watermark={RINGS}"),
            "noise that is drawn on the way leads away from the images",
        ),
        ("sample", ("--run={run}", "--watermark=tree_ring(secret='')"), "needs a secret"),
        ("sample", ("--run={run}", "--watermark=tree_ring(secret='a',radius=20)"), "no such ring"),
        (
            "sample",
            ("--run={run}", f"--watermark={RINGS}", "--task=inpaint", "--init=a.png"),
            "--watermark does nothing with --task=inpaint",
        ),
        (
            "sample",
            ("--pipeline={run}", f"--watermark={RINGS}", "--prompt=a", "--out=o"),
            "--watermark does nothing with --pipeline",
        ),
    ],
)
def test_what_is_refused(trained, name, flags, message):
    done = program(name, *(flag.format(run=trained) for flag in flags))
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr

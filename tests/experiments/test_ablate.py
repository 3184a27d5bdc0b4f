"""A grid of runs: its cells are what their flags say, and a second start computes none again."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from programs import JUDGE_FLAGS, ROOT, check_refused, program

from diffjax.training.run import RunFolder

SMALL = (
    f"--flagfile={ROOT}/experiments/flagfiles/course_04a.flags",
    "--model=course_unet(channels=(32,32,32),num_class_embeds=10)",
    "--schedule=linear(steps=150)", "--sample_steps=3", "--num_samples=4", "--batch_size=8",
    "--steps=2", "--sample_every=2", "--checkpoint_every=2", "--log_every=2", "--num=30",
)  # fmt: skip


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges") / "small"
    done = program("classifier", *JUDGE_FLAGS, "--image_size=16", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_grid(judge, tmp_path):
    out = tmp_path / "grid"
    flags = (
        *SMALL, f"--judge={judge}", "--ablate=time_embedding", "--seeds=1", f"--out={out}",
        "--nocourse_compat", "--sampler=ddpm",
    )  # fmt: skip
    done = program("ablate", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "ablation.json").read_text())["rows"]
    assert [row["value"] for row in found] == ["sinusoidal", "fourier", "raw"]
    for row, folder in zip(
        found, ("base", "time_embedding_fourier", "time_embedding_raw"), strict=True
    ):
        for seed, figures in enumerate(row["seeds"]):
            run, config = RunFolder.open(out / "cells" / folder / f"seed_{seed}")
            assert config.training["seed"] == seed
            assert (f"'{row['value']}'" in config.model) == (folder != "base")
            saved = json.loads((run.path / "evaluation.json").read_text())
            assert figures["frechet"] == saved["samples"]["frechet"]
            assert figures["loss"] == saved["loss"]["mean"]
        told = re.escape(f"{row['seeds'][0]['loss']:.4g} +- 0")
        assert re.search(rf"{row['value']} .*{told}", done.stdout), done.stdout
    assert Image.open(out / "ablation.png").width > 1000
    assert (out / "report.html").read_text().count("data:image/png") >= 4

    started = time.monotonic()
    again = program("ablate", *flags)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert time.monotonic() - started < 30, "nothing is trained or drawn again"
    started = time.monotonic()
    check_refused(program("ablate", *flags, "--learning_rate=1"), "has other flags", started)


def test_spread():
    """In a process of its own: the program's flags are also those of others."""
    code = "from experiments.ablate import spread; print(*spread([1.0, 2.0, 4.0]), *spread([3.0]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    mean, deviation, *alone = map(float, done.stdout.split())
    assert (mean, deviation) == pytest.approx((7 / 3, np.std([1, 2, 4], ddof=1)))
    assert alone == [3, 0], "one run has no spread"


def test_refused(judge):
    given = f"--flagfile={ROOT}/experiments/flagfiles/ablate_fashion_mnist.flags"
    for flags, message in (
        ((given, "--judge=/no/such"), "/no/such is no run folder"),
        ((*SMALL, f"--judge={judge}", "--ablate=colour"), "choose among norm"),
        ((*SMALL, f"--judge={judge}", "--nocourse_compat", "--model=unet"), "course_unet"),
    ):
        started = time.monotonic()
        check_refused(program("ablate", *flags), message, started)

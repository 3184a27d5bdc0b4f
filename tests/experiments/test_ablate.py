"""A grid of runs: its cells are what their flags say, and a second start computes none again."""

import json
import re
import statistics
import time

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
    flags = (*SMALL, f"--judge={judge}", "--ablate=time_embedding", "--seeds=2", f"--out={out}")
    done = program("ablate", *flags, "--nocourse_compat", "--sampler=ddpm")
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
        losses = [seed["loss"] for seed in row["seeds"]]
        told = f"{statistics.fmean(losses):.4g} +- {statistics.stdev(losses):.2g}"
        assert re.search(rf"{row['value']} .*{re.escape(told)}", done.stdout), done.stdout
    assert Image.open(out / "ablation.png").width > 1000
    assert (out / "report.html").read_text().count("data:image/png") >= 4

    started = time.monotonic()
    again = program("ablate", *flags, "--nocourse_compat", "--sampler=ddpm")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert time.monotonic() - started < 30, "nothing is trained or drawn again"
    started = time.monotonic()
    check_refused(program("ablate", *flags, "--learning_rate=1"), "has other flags", started)


def test_refused(judge):
    given = f"--flagfile={ROOT}/experiments/flagfiles/ablate_fashion_mnist.flags"
    for flags, message in (
        ((given, "--judge=/no/such"), "/no/such is no run folder"),
        ((*SMALL, f"--judge={judge}", "--ablate=colour"), "choose among norm"),
        ((*SMALL, f"--judge={judge}", "--nocourse_compat", "--model=unet"), "course_unet"),
    ):
        started = time.monotonic()
        check_refused(program("ablate", *flags), message, started)

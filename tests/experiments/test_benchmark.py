"""Benchmarks through the command line: the numbers again by other means, and what they refuse."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from programs import check_refused, program

from diffjax.metrics.frechet import frechet_distance
from diffjax.runs import load
from diffjax.tasks.classifier import Classification


def features(folder, judge_folder):
    judge = load(judge_folder, Classification)["classifier"]
    drawn = np.load(folder / "samples.npz")["images"].astype(np.float32) / 127.5 - 1
    return np.asarray(jax.jit(judge.model.apply)({"params": judge.params}, jnp.asarray(drawn))[1])


@pytest.mark.slow
def test_samplers(trained, judge, tmp_path):
    """Distances once more, of the images that experiments.sample draws."""
    run = shutil.copytree(trained, tmp_path / "run")
    done = program(
        "benchmark", "samplers", f"--run={run}", f"--judge={judge}", "--num=20", "--batch_size=8",
        "--reference_steps=6", "--nfe=3", "--nfe=2", "--seed=5",
        "--sampler=ddim", "--sampler=dpmpp_2m",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "benchmark" / "samplers.json").read_text())
    rows = {(row["sampler"], row["nfe"]): row for row in found["rows"]}
    assert rows.keys() == {(name, n) for name in ("ddim", "dpmpp_2m") for n in (2, 3)}
    drawn = {}
    for name, sampler, steps, seed in (
        ("reference", "ddpm", 6, 5), ("other", "ddpm", 6, 6), ("ddim", "ddim", 3, 7),
    ):  # fmt: skip
        flags = (f"--sampler={sampler}", f"--steps={steps}", f"--seed={seed}", "--num=20")
        out = tmp_path / name
        assert program("sample", f"--run={run}", f"--out={out}", *flags).returncode == 0
        drawn[name] = features(out, judge)
    distance = frechet_distance(drawn["ddim"], drawn["reference"])
    assert rows["ddim", 3]["frechet"] == pytest.approx(distance, rel=1e-3)
    floor = frechet_distance(drawn["other"], drawn["reference"])
    assert found["floor"] == pytest.approx(floor, rel=1e-3)
    assert all(row["seconds"] > 0 and row["steps"] == row["nfe"] for row in rows.values())
    assert Image.open(run / "benchmark" / "samplers.png").size[0] > 1000
    best = min(("ddim", "dpmpp_2m"), key=lambda name: rows[name, 3]["frechet"])
    line = next(
        line for line in done.stdout.splitlines() if line.startswith(best) and "    3" in line
    )
    assert line.endswith("*")


def test_what_is_refused(trained, judge):
    run, by = f"--run={trained}", f"--judge={judge}"
    for flags, message in (
        ((), "choose one of: convolutions, peers, pipelines, recipes, samplers, scaling, train"),
        (("sampler", run, by), "no benchmark 'sampler'"),
        (("samplers", run), "--judge"),
        (("samplers", run, by, "--nfe=0"), "--nfe=0"),
        (("samplers", run, by, "--sampler=ddin"), "did you mean 'ddim'"),
        (("samplers", f"--run={judge}", by), "where a diffusion or distillation or"),
    ):
        check_refused(message, "benchmark", *flags)
    assert not (trained / "benchmark").exists()

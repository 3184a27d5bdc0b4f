"""Evaluation through the command line: its numbers again by other means, and what it refuses."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from programs import JUDGE_FLAGS, RUN_FLAGS, check_refused, program

from diffjax.data.embedded import Embedded
from diffjax.runs import load
from diffjax.tasks.classifier import Classification
from experiments.evaluations.saved import save

SMALL = ("--image_size=16", "--steps=2")
TERMS = ("prior", "diffusion", "reconstruction")
FIGURES = {"frechet", "kernel", "precision", "recall", "density", "coverage"}
COLUMN = {
    *FIGURES,
    "frechet_bias",
    "confidence",
    "agreement",
    "checkerboard",
    "class_shares",
    "intervals",
}


def evaluate(run, judge, *flags):
    done = program("evaluate", f"--run={run}", f"--judge={judge}", "--steps=3", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads((run / "evaluation.json").read_text()), done.stdout


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run, to be written in."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def small_judge(tmp_path_factory):
    """A judge of images resized to 16x16."""
    folder = tmp_path_factory.mktemp("judges") / "small"
    done = program("classifier", *JUDGE_FLAGS, *SMALL, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def judged(folder, images):
    """Logits and features, without the program."""
    judge = load(folder, Classification)["classifier"]
    apply = jax.jit(judge.model.apply)
    return map(np.asarray, apply({"params": judge.params}, jnp.asarray(images)))


def fid(a, b):
    shift, s, u = a.mean(0) - b.mean(0), np.cov(a.T), np.cov(b.T)
    common = np.sqrt(np.maximum(np.linalg.eigvals(s @ u).real, 0)).sum()
    return shift @ shift + np.trace(s) + np.trace(u) - 2 * common


def test_numbers(run, judge, tmp_path):
    """Distances once more, of the images that experiments.sample draws, by eigenvalues."""
    found, text = evaluate(run, judge, "--num=40", "--seed=3")
    assert found["samples"].keys() == found["real"].keys() == COLUMN
    assert (found["num"], found["step"], found["judge_step"]) == (40, 6, 4)
    flags = ("--num=40", "--seed=3", "--steps=3", "--sampler=ddim", f"--out={tmp_path}/out")
    assert program("sample", f"--run={run}", *flags).returncode == 0
    drawn = np.load(tmp_path / "out" / "samples.npz")["images"].astype(np.float32) / 127.5 - 1
    order = np.random.default_rng(3).permutation(500)
    held_out = Embedded().open("test", None)
    real = [
        np.stack([held_out[int(i)]["image"] for i in half]) for half in (order[:40], order[40:80])
    ]
    reference, floor, samples = (
        list(judged(judge, x))[1].astype(np.float64) for x in (*real, drawn)
    )
    assert found["samples"]["frechet"] == pytest.approx(fid(samples, reference), rel=1e-3)
    assert found["real"]["frechet"] == pytest.approx(fid(floor, reference), rel=1e-3)
    assert found["samples"]["agreement"] is None, "no class was asked for"
    logits, _ = judged(judge, real[1])
    labels = [held_out[int(i)]["label"] for i in order[40:80]]
    assert found["real"]["agreement"] == np.mean(logits.argmax(1) == labels)
    for side in ("samples", "real"):
        assert found[side]["intervals"].keys() == FIGURES
        low, high = found[side]["intervals"]["kernel"]
        assert low < found[side]["kernel"] < high
        assert found[side]["frechet_bias"] > 0, "fewer images are further apart"
    number = r"-?\d+\.\d{3}"
    row = rf"^kernel distance +{number} +{number} to {number} +{number}$"
    assert re.search(row, text, re.MULTILINE), text
    checksum = found["extractor"]["checksum"]
    assert f"features of judge {checksum[:8]}" in text
    assert re.search(r"^share of ankle boot +\d\.\d{3} +\d\.\d{3}$", text, re.MULTILINE), text


@pytest.mark.slow
def test_classes_are_asked_for_in_turn(small_judge, tmp_path):
    """And run and judge agree on a size that is not the data's."""
    flags = [f.replace("unet(", "unet(num_class_embeds=10,") for f in RUN_FLAGS]
    run, out = tmp_path / "run", tmp_path / "out"
    assert program("ddpm", *flags, *SMALL, f"--workdir={run}").returncode == 0
    found, _ = evaluate(run, small_judge, "--num=20")
    options = ("--num=20", "--steps=3", "--sampler=ddim", f"--out={out}")
    assert program("sample", f"--run={run}", *options).returncode == 0
    drawn = np.load(out / "samples.npz")["images"].astype(np.float32) / 127.5 - 1
    logits, _ = judged(small_judge, drawn)
    assert found["samples"]["agreement"] == np.mean(logits.argmax(1) == np.arange(20) % 10)


def test_batches_change_nothing_and_a_seed_does(run, judge):
    (run / "evaluation.json").write_text('{"bpd": {"num": 7}, "num": 8}')
    first, _ = evaluate(run, judge, "--num=12", "--batch_size=12")
    cut, _ = evaluate(run, judge, "--num=12", "--batch_size=5")
    other, _ = evaluate(run, judge, "--num=12", "--seed=1")
    for column in ("samples", "real"):
        for name in COLUMN - {"agreement", "intervals"}:
            np.testing.assert_allclose(cut[column][name], first[column][name], rtol=1e-3, atol=1e-6)
    assert other["real"]["frechet"] != first["real"]["frechet"]
    assert (other["bpd"], other["num"]) == ({"num": 7}, 12), "what another metric found stays"


def test_no_more_than_half_of_what_is_held_out(tmp_path, judge, trained):
    """Of 500 two disjoint sets of 250."""
    run = shutil.copytree(trained, tmp_path / "run")
    found, text = evaluate(run, judge, "--num=251", "--batch_size=251")
    assert "--num=251 is cut to 250" in text
    assert found["num"] == 250


def test_a_judge_is_no_run_and_a_run_no_judge(trained, judge):
    for flags, message in (
        ((f"--run={judge}", f"--judge={judge}"), "where a diffusion or distillation or"),
        ((f"--run={trained}", f"--judge={trained}"), "where a classifier run is needed"),
        ((f"--run={trained}", "--judge=/no/such"), "/no/such is no run folder"),
        ((f"--run={trained}", f"--judge={judge}", "--num=3"), "num"),
        ((f"--run={trained}",), "--judge"),
        ((f"--run={trained}", "--metrics=bpd", "--steps=9"), "--steps does nothing without"),
    ):
        check_refused(message, "evaluate", *flags)
    assert not (trained / "evaluation.json").exists()


def test_images_of_another_shape(trained, small_judge):
    check_refused(
        "28x28x1 and the judge knows 16x16x1",
        "evaluate",
        f"--run={trained}",
        f"--judge={small_judge}",
    )


def bits(run, *flags):
    effort = ("--bpd_steps=20", "--bpd_draws=2", "--ode_steps=2", "--probes=2")
    done = program("evaluate", f"--run={run}", "--metrics=bpd", "--num=5", *effort, *flags)
    assert done.returncode == 0, done.stderr
    return json.loads((run / "evaluation.json").read_text()), done.stdout


@pytest.mark.slow
def test_bits_per_dim(run):
    """Of the images that the run has not learnt from: the prior's term is known of each."""
    (run / "evaluation.json").write_text('{"samples": {"frechet": 1.5}, "num": 12}')
    saved, text = bits(run)
    assert (saved["samples"], saved["num"]) == ({"frechet": 1.5}, 12)
    found = saved["bpd"]
    assert [found[k] for k in ("num", "step", "steps", "draws", "probes")] == [5, 6, 20, 2, 2]
    held_out = Embedded().open("test", None)
    x0 = np.stack([held_out[int(i)]["image"] for i in np.random.default_rng(0).permutation(500)])
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha_bar = np.prod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
    prior = alpha_bar / (1 - alpha_bar) * (x0[:5].astype(np.float64) ** 2).mean((1, 2, 3)) / 2
    prior /= np.log(2)
    assert found["discrete prior"]["mean"] == pytest.approx(prior.mean(), rel=1e-3)
    error = prior.std(ddof=1) / np.sqrt(5)
    assert found["discrete prior"]["error"] == pytest.approx(error, rel=1e-3)
    for bound in ("discrete", "continuous"):
        terms = sum(found[f"{bound} {term}"]["mean"] for term in TERMS)
        assert found[f"{bound} total"]["mean"] == pytest.approx(terms, rel=1e-6)
    for row in ("bound of 20 steps", "bound of infinitely many steps", "probability flow"):
        assert re.search(rf"^{row}( +-?\d+\.\d{{4}}){{3}}$", text, re.MULTILINE), text
    cut = bits(run, "--batch_size=2")[0]["bpd"]
    for name in ("discrete total", "continuous total", "flow"):
        assert cut[name]["mean"] == pytest.approx(found[name]["mean"], rel=1e-3)
        assert cut[name]["error"] == pytest.approx(found[name]["error"], rel=1e-2)


def test_bits_that_cannot_be_told(run, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(10):
        Image.new("L", (28, 28), i).save(tmp_path / "pictures" / f"{i}.png")
    config = json.loads((run / "config.json").read_text())
    teacher = {"path": "/no/such", "component": "denoiser", "digest": ""}
    student = {
        **config,
        "task": "distillation",
        "config": {**config["config"], "method": "consistency_training", "teacher": teacher},
    }
    few, gone = (
        {**config, "training": {**config["training"], "dataset": f"folder(path='{path}')"}}
        for path in (tmp_path / "pictures", "/no/such")
    )
    for metrics, changed, saved, message in (
        ("bpd", student, "{}", "student of consistency_training"),
        ("bpd", few, "{}", "holds out 1 image"),
        ("bpd", gone, "{}", "/no/such"),
        ("bpd", config, "{", "move it away"),
        (
            "fid",
            config,
            "{}",
            "choose among judge, guidance, averages, assessment, bias, clip_score, loss, bpd",
        ),
    ):
        (run / "config.json").write_text(json.dumps(changed))
        (run / "evaluation.json").write_text(saved)
        check_refused(message, "evaluate", f"--run={run}", f"--metrics={metrics}")
        assert (run / "evaluation.json").read_text() == saved


def test_figures_are_told_where_they_cannot_be_saved(tmp_path):
    assert save(tmp_path / "evaluation.json", {"num": 1}) == f"in {tmp_path}/evaluation.json"
    said = save(tmp_path / "gone" / "evaluation.json", {"num": 1})
    assert said.startswith("not saved, as ")
    assert said.endswith("(No such file or directory)")

"""What evaluation says of guided runs: the sweep over scales, and the course's assessment."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from programs import JUDGE_FLAGS, RUN_FLAGS, calls, program
from scipy.stats import binomtest

from diffjax.data import images
from diffjax.generate import generate, make_draw, times_of
from diffjax.guidance.plan import Away, Guidance
from diffjax.runs import load
from diffjax.samplers.ddim import DDIM
from diffjax.tasks.classifier import Classification
from diffjax.tasks.diffusion import Diffusion

GUIDED = (
    *[flag.replace("unet(", "unet(num_class_embeds=2,") for flag in RUN_FLAGS],
    "--cond_drop=0.2",
    "--steps=2",
)
DRAW = ("--steps=3", "--sampler=ddim", "--num=20")


def evaluations(*each):
    """What each call prints, its error included."""
    return calls("evaluate", *((*DRAW, *call) for call in each))


def write_images(folder, names):
    """Dark images and bright ones, two classes."""
    for i in range(400):
        path = folder / names[i % 2] / f"{i:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), (0, 180)[i % 2] + i % 50).save(path)
    return f"folder(path='{folder}')"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data"), ("dark", "bright"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("runs") / "guided"
    done = program("ddpm", *GUIDED, f"--dataset={dataset}", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def sure(tmp_path_factory, dataset):
    """A judge that is always right."""
    folder = tmp_path_factory.mktemp("judges") / "sure"
    flags = (*JUDGE_FLAGS, f"--dataset={dataset}", "--steps=60", f"--workdir={folder}")
    done = program("classifier", *flags)
    assert done.returncode == 0, done.stderr
    return folder


def right(run, judge, scale):
    """Which of 20 images the judge takes for the class asked for, without the program."""
    trained, sure = load(run, Diffusion), load(judge, Classification)["classifier"]
    task, params = trained.task, trained["denoiser"].params
    labels, times = np.arange(20) % 2, times_of(task.process, params, DDIM().spacing, 3)
    draw = make_draw(task.model, task.process, DDIM(), task.image_shape)
    guidance = Guidance(Away(jnp.full(20, float(scale)), jnp.full(20, 2)))
    key, cond = jax.random.key(0), jnp.asarray(labels)
    x0, _ = generate(draw, params, key, 20, 20, times, cond, guidance)
    shown = jnp.asarray(images.scaled(images.to_uint8(x0)))
    logits, _ = jax.jit(sure.model.apply)({"params": sure.params}, shown)
    return np.asarray(logits).argmax(1) == labels


@pytest.mark.slow
def test_sweep_and_assessment(run, sure):
    both = (f"--run={run}", f"--judge={sure}")
    few, swept, _, one, assessed = evaluations(
        (*both, "--metrics=guidance,assessment", "--guidance=3", "--figures=kernel"),
        (*both, "--metrics=guidance", "--guidance=-1,1,40"),
        both,
        (*both, "--guidance=40", "--metrics=judge,loss"),
        (*both, "--guidance=3", "--metrics=assessment"),
    )
    found = json.loads((run / "evaluation.json").read_text())
    rows = {row["scale"]: row for row in found["guidance"]["rows"]}
    assert list(rows) == [-1, 1, 40]
    for scale, row in rows.items():
        assert row["agreement"] == right(run, sure, scale).mean()
    assert rows[1]["frechet"] != rows[40]["frechet"]
    assert found["samples"]["frechet"] == pytest.approx(rows[40]["frechet"], rel=1e-3)
    assert found["guidance_scale"] == 40
    assert "kernel distance" in few
    assert "Fréchet" not in few, "what is left out is not asked for either"
    assert "    40    39" in swept, "the course's w beside the scale"
    for name in ("guidance.png", "guidance_images.png"):
        with Image.open(run / name) as picture:
            assert np.ptp(np.asarray(picture.convert("L"))) > 100

    said, seen = found["assessment"], right(run, sure, 3)
    assert said["judge_accuracy"] == 1
    assert said["recognised"] == seen.sum()
    assert said["by_class"] == [seen[::2].mean(), seen[1::2].mean()]
    interval = binomtest(int(seen.sum()), 20).proportion_ci(method="wilson")
    assert said["interval"] == pytest.approx([interval.low, interval.high])
    assert said["passed"] == (seen.mean() >= 0.95)
    assert f"recognised {seen.sum()} of 20" in assessed
    assert ("not passed" in assessed) != said["passed"]
    assert (run / "assessment_wrong.png").exists() == (not seen.all())

    # Two steps teach a network of zeros nothing: it tells no noise, whose square is 1.
    assert found["loss"]["mean"] == pytest.approx(1, abs=5 * found["loss"]["error"] + 0.2)
    assert f"held-out loss {found['loss']['mean']:.5f}" in one


def test_bias_of_classes_and_attributes(run, sure):
    (told,) = evaluations((f"--run={run}", f"--judge={sure}", "--metrics=bias", "--guidance=1,40"))
    found = json.loads((run / "evaluation.json").read_text())["bias"]
    assert sum(found["real"]) == 40, "the reference and the floor"
    assert [sum(counts) for counts in found["drawn"]] == [20, 20]
    attributes = found["attributes"]
    assert attributes["names"] == ["brightness", "contrast", "symmetry"]
    assert np.shape(attributes["p_values"]) == (2, 3)
    # The data are flat images of 0 to 49 and 180 to 229 of 255 levels, in halves.
    brightness, contrast, _ = attributes["real"]
    assert brightness == pytest.approx(2 * (90 + 24.5) / 255 - 1, abs=0.1)
    assert contrast == pytest.approx(0, abs=1e-6)
    assert attributes["p_values"][0][1] < 1e-6, "two steps of training draw noise"
    assert "brightness" in told


def test_refused(run, sure, trained, judge, tmp_path):
    """Fewer samples than dimensions, other data than the judge's, and so on: each says what."""
    swapped, other = tmp_path / "swapped", tmp_path / "other"
    (tmp_path / "data").mkdir()
    dataset = write_images(tmp_path / "data", ("bright", "dark"))
    for copy, of in ((swapped, sure), (other, run)):
        shutil.copytree(of, copy)
        config = json.loads((copy / "config.json").read_text())
        config["training"]["dataset"] = dataset
        (copy / "config.json").write_text(json.dumps(config))
    guided, unguided = (f"--run={run}", f"--judge={sure}"), (f"--run={trained}", f"--judge={judge}")
    cases = (
        ((f"--run={other}", f"--judge={swapped}", "--metrics=assessment"), "more than 99%"),
        ((f"--run={other}", f"--judge={sure}"), "it has learnt other data"),
        ((*unguided, "--metrics=assessment"), "knows none"),
        ((*unguided, "--metrics=guidance"), "train with cond_drop above 0"),
        ((*unguided, "--guidance=2"), "train with cond_drop above 0"),
        ((*guided, "--guidance=2,3"), "--metrics=guidance"),
        ((*guided, "--metrics=guidance", "--guidance=2,much"), "--guidance=2,much"),
        ((*guided, "--metrics=guidance", "--guidance=nan"), "finite"),
        ((guided[0], "--metrics=bpd", "--guidance=2"), "--steps does nothing"),
        ((*guided, "--extractor=mobilenet_v2"), "--weights=FILE"),
        ((*guided, "--weights=a.npz"), "--weights does nothing"),
        ((*guided, "--figures=fid"), "choose among frechet"),
    )
    for (_, message), said in zip(cases, evaluations(*(call for call, _ in cases)), strict=True):
        assert said.startswith("refused:"), (message, said)
        assert message in said
    compared = (f"--dataset={dataset}", f"--judge={sure}", "--families=gan", "--num=20")
    done = program("compare", *compared, f"--out={tmp_path / 'out'}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "it has learnt other data" in done.stderr
    assert not (tmp_path / "out").exists(), "before anything is trained"

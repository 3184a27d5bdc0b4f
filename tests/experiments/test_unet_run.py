"""Training U-Nets through the command line: their figures counted again, and what is refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from programs import ROOT, check_refused, program, python

from diffjax.data import epoch
from diffjax.data.composites import Composites
from diffjax.data.embedded import Embedded
from diffjax.runs import load
from diffjax.tasks.segmentation import Segmentation

TINY = "--model=course_unet(form='first',channels=(4,4,8),norm='batch')"
FLAGS = (
    TINY, "--task=segment_classes", "--upsample=bilinear", "--image_size=16", "--batch_size=8",
    "--steps=4", "--log_every=2", "--checkpoint_every=2", "--eval_every=2", "--warmup_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run, and what it said."""
    folder = tmp_path_factory.mktemp("runs") / "unet"
    done = program("unet", *FLAGS, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_figures_are_those_of_the_saved_weights_on_held_out_images(run):
    folder, said = run
    unet = load(folder, Segmentation)["unet"]
    held_out = Composites().open("test", 16)
    (batch,) = epoch(held_out, 500)
    apply = jax.jit(unet.model.apply)
    logits = np.asarray(apply({"params": unet.params}, jnp.asarray(batch["image"])))
    guess, truth = logits.argmax(-1), batch["mask"]
    found = json.loads((folder / "held_out.json").read_text())
    assert found["step"] == 4
    names = ("background", *held_out.class_names)
    overlaps = {}
    for k, name in enumerate(names):
        either = ((guess == k) | (truth == k)).sum()
        overlaps[name] = ((guess == k) & (truth == k)).sum() / either
    assert found["iou"] == pytest.approx(overlaps, abs=1e-3)
    assert found["mean_iou"] == pytest.approx(np.mean(list(overlaps.values())), abs=1e-3)
    assert found["dice"] == pytest.approx(
        {n: 2 * v / (1 + v) for n, v in overlaps.items()}, abs=2e-3
    )
    assert "background     IoU" in said


def test_files(run):
    folder, _ = run
    assert {p.name for p in (folder / "samples").iterdir()} == {
        "step_00000002.png", "step_00000004.png",
    }  # fmt: skip
    picture = np.asarray(Image.open(folder / "samples" / "step_00000004.png"))
    assert picture.shape[1] > 2 * picture.shape[0]  # ten columns, three rows
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(0 <= line["accuracy"] <= 1 and np.isfinite(line["loss"]) for line in lines)
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_stopped_and_taken_up_equals_whole(run, tmp_path):
    folder = tmp_path / "halves"
    shutil.copytree(run[0], folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    (folder / "held_out.json").unlink()
    done = program("unet", f"--flagfile={folder}/flags.txt", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "going on from step 2 of 4" in done.stdout
    assert (folder / "held_out.json").read_text() == (run[0] / "held_out.json").read_text()


@pytest.mark.slow
def test_denoising_by_the_preset(tmp_path):
    """PSNR of what went in once more; with no more steps than this nothing is learnt."""
    more = ("--image_size=16", "--steps=3", "--eval_every=3", f"--workdir={tmp_path}/run")
    done = program("unet", "--preset=smoke", TINY, *more)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "held_out.json").read_text())
    # (x - x / 2)² + 1 / 4 on average, of a span of 2.
    (batch,) = epoch(Embedded().open("test", 16), 500)
    error = np.mean(batch["image"] ** 2) / 4 + 1 / 4
    assert found["psnr_of_input"] == pytest.approx(10 * np.log10(4 / error), abs=0.05)
    assert {"step", "psnr", "checkerboard", "checkerboard_of_truth"} < found.keys()
    assert "--batch_size=16" in (tmp_path / "run" / "flags.txt").read_text()


WRONG = {
    "no masks": (("--dataset=embedded",), "has no masks"),
    "upsampling twice": (
        ("--model=course_unet(upsample='nearest')",), "where 'bilinear' is needed",
    ),
    "a network that judges": (("--model=classifier",), "choose another"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_mistakes(tmp_path, case):
    flags, message = WRONG[case]
    check_refused(message, "unet", *FLAGS, f"--workdir={tmp_path}/run", *flags)
    assert not (tmp_path / "run").exists()


def test_flagfiles_build():
    """In a process of their own: the flags of other programs have the same names."""
    code = (
        "import sys; from absl import flags; from diffjax.spec import render\n"
        "from experiments import unet; from experiments.flags import learning\n"
        "for path in sys.argv[1:]:\n"
        "    flags.FLAGS(['unet', f'--flagfile={path}'])\n"
        "    print(render(unet.describe(learning.open_records()).model))"
    )
    files = sorted((ROOT / "experiments" / "flagfiles").glob("unet_*.flags"))
    done = python(code, *map(str, files))
    assert done.returncode == 0, done.stderr
    models = [line for line in done.stdout.splitlines() if not line.startswith("data: ")]
    assert [line.partition("(")[0] for line in models] == 3 * ["course_unet"]

"""Training a judge through the command line: its files, its accuracy, and taking it up again."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import JUDGE_FLAGS, check_refused, program

import diffjax.data
from diffjax.data.embedded import Embedded
from diffjax.errors import UserError
from diffjax.runs import load
from diffjax.tasks.classifier import Classification
from diffjax.tasks.denoisers import DenoiserTask


def test_run_folder(judge):
    lines = [json.loads(line) for line in (judge / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(0 <= line["accuracy"] <= 1 and np.isfinite(line["loss"]) for line in lines)
    assert {p.name for p in (judge / "checkpoints").iterdir()} == {"2", "4"}


def test_accuracy_is_that_of_the_saved_weights_on_the_held_out_images(judge):
    """Counted again, image by image and without the program."""
    of = load(judge, Classification)["classifier"]
    held_out = Embedded().open("test", None)
    (batch,) = diffjax.data.epoch(held_out, 500)
    logits, _ = jax.jit(of.model.apply)({"params": of.params}, jnp.asarray(batch["image"]))
    right = int((np.asarray(logits).argmax(1) == batch["label"]).sum())
    found = json.loads((judge / "accuracy.json").read_text())
    assert found == {"step": 4, "accuracy": right / 500, "images": 500}
    assert right > 25  # half of what guessing gives


def test_flags_txt_repeats_the_run(judge, tmp_path):
    done = program("classifier", f"--flagfile={judge}/flags.txt", f"--workdir={tmp_path}/again")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "accuracy.json").read_text() == (
        judge / "accuracy.json"
    ).read_text()
    assert "of 500 held-out images right" in done.stdout


def test_stopped_and_taken_up_equals_whole(judge, tmp_path):
    folder = tmp_path / "halves"
    shutil.copytree(judge, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    done = program("classifier", *JUDGE_FLAGS, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    assert "going on from step 2 of 4" in done.stdout
    whole, halves = (jax.tree.leaves(load(f)["classifier"].params) for f in (judge, folder))
    for a, b in zip(whole, halves, strict=True):
        np.testing.assert_array_equal(a, b)


WRONG = {
    "a network that does not classify": (("--model=unet",), "is no classifier"),
    "another number of classes": (("--model=classifier(num_classes=3)",), "has 10"),
    "channels that do not divide": (("--model=classifier(channels=(9,))",), "norm_num_groups"),
    "a shift below 0": (("--shift=-1",), "shift"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes(tmp_path, case):
    flags, message = WRONG[case]
    check_refused(message, "classifier", *JUDGE_FLAGS, f"--workdir={tmp_path}/run", *flags)
    assert not (tmp_path / "run").exists()


def test_judge_and_run_are_not_taken_for_each_other(judge, trained):
    with pytest.raises(UserError, match="is a diffusion run, where a classifier run is needed"):
        load(trained, Classification)
    with pytest.raises(UserError, match="is a classifier run, where a diffusion or distillation"):
        load(judge, DenoiserTask)

"""The main job as the course does it: what --course_compat stands for, and what contradicts it."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from absl import flags
from programs import program

from diffjax.conditions.none import Unconditional
from diffjax.conditions.one_hot import OneHot
from diffjax.errors import UserError
from diffjax.models.stateful import STATISTICS, split_state
from diffjax.runs import load
from diffjax.spec import render
from diffjax.tasks.base import shapes
from experiments import ddpm
from experiments.start.command import said

FLAGFILES = pathlib.Path(ddpm.__file__).parent / "flagfiles"
COUNTS = {"course_02": 240_385, "course_03": 1_979_777, "course_04a": 2_002_561}
NETWORK = "--model=course_unet(channels=(4,4,4),groups=(4,4))"
CONDITIONAL = NETWORK[:-1] + ",num_class_embeds=10)"
COMPAT = "--course_compat"


@dataclasses.dataclass
class Shapes:
    """What a task needs of a data set."""

    image_shape: tuple[int, int, int] = (16, 16, 1)
    num_classes: int | None = 10
    class_names: tuple[str, ...] = ()

    def __getitem__(self, index):
        return {"image": np.zeros(self.image_shape, np.float32), "label": np.int32(0)}


@pytest.fixture
def describe():
    """The task that flags describe, and the flags' values; all are put back afterwards."""
    saved = {name: flags.FLAGS[name].value for name in flags.FLAGS}

    def make(*values):
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["ddpm", *values])
        ddpm.repeat_course()
        task = ddpm.describe(Shapes())
        task.loss({})
        return task, flags.FLAGS.flag_values_dict()

    yield make
    for name, value in saved.items():
        flags.FLAGS[name].value = value
    flags.FLAGS.unparse_flags()


def test_it_stands_for_the_course_s_choices(describe):
    task, values = describe(COMPAT, CONDITIONAL, "--cond_drop=0.1")
    assert render(task.schedule) == "linear(steps=150)"
    assert task.condition == OneHot(10, "element", drop=0.1)
    assert task.model.time_scale == 150
    assert (values["sampler"], values["sample_steps"]) == ("ddpm(variance='previous')", 150)
    # What is given in the same words, or written by the run itself, is no contradiction.
    again, _ = describe(
        COMPAT, CONDITIONAL[:-1] + ",time_scale=150)", "--cond_drop=0.1", "--cond_mask=element",
        "--schedule=linear(steps=150,beta_end=0.02)", "--sample_steps=150",
    )  # fmt: skip
    assert again == task
    flowers, values = describe(COMPAT, NETWORK, "--schedule=linear(steps=400)")
    assert (flowers.model.time_scale, values["sample_steps"]) == (400, 400)
    assert flowers.condition == Unconditional()


def test_without_it_each_is_an_option_of_its_own(describe):
    task, values = describe(NETWORK)
    assert (render(task.schedule), values["sampler"]) == ("linear()", "ddim")
    assert "time_scale" not in render(task.model)
    task, _ = describe(CONDITIONAL)
    assert task.condition == OneHot(10)
    with pytest.raises(UserError, match="cond_drop above 0"):
        task.condition.unwanted(task.condition.asked(None, 1))
    task, _ = describe(CONDITIONAL, "--cond_drop=0.1", "--cond_mask=element")
    assert task.condition == OneHot(10, "element", drop=0.1)
    assert not task.condition.unwanted(task.condition.asked(None, 1)).any()
    assert render(task.schedule) == "linear()"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((COMPAT,), "for a course_unet"),
        ((COMPAT, NETWORK, "--schedule=cosine"), r"--schedule=linear\(steps=150\) or"),
        ((COMPAT, NETWORK, "--schedule=linear"), r"--schedule=linear\(steps=150\) or"),
        ((COMPAT, NETWORK, "--target=v"), "--target=eps"),
        ((COMPAT, NETWORK, "--sampler=ddpm"), r"--sampler=ddpm\(variance='previous'\)"),
        ((COMPAT, NETWORK, "--sample_steps=50"), "--sample_steps=150"),
        ((COMPAT, f"{NETWORK[:-1]},time_scale=1)"), "time_scale=150"),
        ((COMPAT, CONDITIONAL, "--cond_drop=0.1", "--cond_mask=sample"), "--cond_mask=element"),
        ((NETWORK, "--cond_mask=element", "--cond_drop=0.1"), "num_class_embeds"),
        ((CONDITIONAL, "--cond_mask=element"), r"cond_drop above 0 \(--cond_mask\)"),
        ((CONDITIONAL, "--cond_mask=element", "--cond_drop=1"), "cond_drop=1.0"),
        ((f"{NETWORK[:-1]},cond_dim=512)",), "cond_dim=512"),
        ((f"{NETWORK[:-1]},num_class_embeds=3)",), "10 classes"),
        ((f"{NETWORK[:-1]},out_channels=3)",), "leave it out"),
    ],
)
def test_what_does_not_go_together(describe, values, message):
    with pytest.raises(UserError) as caught:
        describe(*values)
    line = said(caught.value)
    assert re.search(message, line)
    assert "\n" not in line


@pytest.mark.parametrize("name", COUNTS)
def test_a_flagfile_describes_the_course_s_network(describe, name):
    task, _ = describe(f"--flagfile={FLAGFILES / name}.flags")
    learnt, _ = split_state(shapes(task, {}))
    assert sum(leaf.size for leaf in jax.tree.leaves(learnt)) == COUNTS[name]
    assert task.process.schedule.steps == 150
    conditional = name == "course_04a"
    assert task.condition == (OneHot(10, "element", drop=0.1) if conditional else Unconditional())


@pytest.mark.slow
def test_batch_norm_trains_and_goes_on_to_the_last_bit(tmp_path):
    """Stopped half way; its running statistics are in what is drawn from, and move."""
    model = (
        "--model=course_unet(form='first',channels=(4,4,8),norm='batch',pooling='max',"
        "num_class_embeds=10)"
    )
    folder = tmp_path / "run"
    values = (
        COMPAT, model, "--cond_drop=0.1", "--image_size=8", "--batch_size=8", "--steps=6",
        "--log_every=2", "--checkpoint_every=3", "--sample_every=6", "--num_samples=4",
        f"--workdir={folder}",
    )  # fmt: skip
    done = program("ddpm", *values)
    assert done.returncode == 0, done.stderr
    whole = load(folder)["denoiser"].params
    log = (folder / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert all(set(line) == {"step", "loss", "grad_norm", "skipped"} for line in lines)
    assert not any(line["skipped"] for line in lines)
    shutil.rmtree(folder / "checkpoints" / "6")
    half = load(folder)["denoiser"].params
    done = program("ddpm", *values)
    assert done.returncode == 0, done.stderr
    assert "going on from step 3 of 6" in done.stdout
    assert (folder / "metrics.jsonl").read_text() == log
    again = load(folder)["denoiser"].params
    for a, b in zip(*map(jax.tree.leaves, (whole, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), half, whole)
    assert all(jax.tree.leaves(moved[STATISTICS]))
    done = program(
        "sample", f"--run={folder}", "--num=4", "--steps=3", "--guidance=2", f"--out={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr

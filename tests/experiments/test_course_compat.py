"""The main job as the course does it: what --course_compat stands for, and what contradicts it."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from absl import flags
from diffjax.trained import build, init_params, load, null_label
from programs import program

from diffjax.errors import UserError
from diffjax.models.stateful import STATISTICS
from experiments import ddpm

FLAGFILES = pathlib.Path(ddpm.__file__).parent / "flagfiles"
COUNTS = {"course_02": 240_385, "course_03": 1_979_777, "course_04a": 2_002_561}
NETWORK = "--model=course_unet(channels=(4,4,4),groups=(4,4))"
CONDITIONAL = NETWORK[:-1] + ",num_class_embeds=10)"
COMPAT = "--course_compat"


@dataclasses.dataclass
class Shapes:
    """What a config needs of a data set."""

    image_shape: tuple[int, int, int] = (16, 16, 1)
    num_classes: int | None = 10


@pytest.fixture
def describe():
    """The config that flags describe, and the flags' values; all are put back afterwards."""
    saved = {name: flags.FLAGS[name].value for name in flags.FLAGS}

    def make(*values):
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["ddpm", *values])
        ddpm.repeat_course()
        config = ddpm.describe(Shapes())
        ddpm.make_loss(config, *build(config))
        return config, flags.FLAGS.flag_values_dict()

    yield make
    for name, value in saved.items():
        flags.FLAGS[name].value = value
    flags.FLAGS.unparse_flags()


def test_it_stands_for_the_course_s_choices(describe):
    config, values = describe(COMPAT, CONDITIONAL, "--cond_drop=0.1")
    assert config.schedule == "linear(steps=150)"
    assert config.training["cond_mask"] == "element"
    assert "time_scale=150" in config.model
    assert (values["sampler"], values["sample_steps"]) == ("ddpm(variance='previous')", 150)
    # What is given in the same words, or written by the run itself, is no contradiction.
    again, _ = describe(
        COMPAT, CONDITIONAL[:-1] + ",time_scale=150)", "--cond_drop=0.1", "--cond_mask=element",
        "--schedule=linear(steps=150,beta_end=0.02)", "--sample_steps=150",
    )  # fmt: skip
    assert again == config
    flowers, values = describe(COMPAT, NETWORK, "--schedule=linear(steps=400)")
    assert ("time_scale=400" in flowers.model, values["sample_steps"]) == (True, 400)
    assert "cond_mask" not in flowers.training


def test_without_it_each_is_an_option_of_its_own(describe):
    config, values = describe(NETWORK)
    assert (config.schedule, values["sampler"]) == ("linear()", "ddim")
    assert "time_scale" not in config.model
    config, _ = describe(CONDITIONAL)
    assert null_label(config, build(config)[0]) is None
    config, _ = describe(CONDITIONAL, "--cond_drop=0.1", "--cond_mask=element")
    assert null_label(config, build(config)[0]) == 10
    assert config.training["cond_mask"] == "element"
    assert config.schedule == "linear()"


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
        ((CONDITIONAL, "--cond_mask=element"), "--cond_drop above 0"),
        ((CONDITIONAL, "--cond_mask=element", "--cond_drop=1"), "cond_drop=1.0"),
        ((f"{NETWORK[:-1]},cond_dim=512)",), "cond_dim=512"),
        ((f"{NETWORK[:-1]},num_class_embeds=3)",), "10 classes"),
        ((f"{NETWORK[:-1]},out_channels=3)",), "leave it out"),
    ],
)
def test_what_does_not_go_together(describe, values, message):
    with pytest.raises(UserError, match=message) as caught:
        describe(*values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", COUNTS)
def test_a_flagfile_describes_the_course_s_network(describe, name):
    config, _ = describe(f"--flagfile={FLAGFILES / name}.flags")
    model, process = build(config)
    shapes = jax.eval_shape(lambda key: init_params(model, config, key), jax.random.key(0))
    learnt = {part: tree for part, tree in shapes.items() if part != STATISTICS}
    assert sum(leaf.size for leaf in jax.tree.leaves(learnt)) == COUNTS[name]
    assert process.schedule.steps == 150
    assert null_label(config, model) == (10 if name == "course_04a" else None)


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
    whole = load(folder)
    log = (folder / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert all(set(line) == {"step", "loss", "grad_norm", "skipped"} for line in lines)
    assert not any(line["skipped"] for line in lines)
    shutil.rmtree(folder / "checkpoints" / "6")
    half = load(folder).params
    done = program("ddpm", *values)
    assert done.returncode == 0, done.stderr
    assert "going on from step 3 of 6" in done.stdout
    assert (folder / "metrics.jsonl").read_text() == log
    for a, b in zip(
        *(jax.tree.leaves(p) for p in (whole.params, load(folder).params)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), half, whole.params)
    assert all(jax.tree.leaves(moved[STATISTICS]))
    done = program(
        "sample", f"--run={folder}", "--num=4", "--steps=3", "--guidance=2", f"--out={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr

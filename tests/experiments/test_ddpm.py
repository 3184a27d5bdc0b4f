"""The main job through the command line: its files, and taking it up again."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image
from programs import RUN_FLAGS, TINY, program

from diffjax.errors import UserError
from diffjax.trained import build, load
from diffjax.training.run import RunConfig, RunFolder
from experiments import ddpm


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_run_folder(trained):
    assert [entry["step"] for entry in lines(trained)] == [2, 4, 6]
    assert all(np.isfinite(entry["loss"]) for entry in lines(trained))
    assert {p.name for p in (trained / "samples").iterdir()} == {
        "step_00000004.png",
        "step_00000006.png",
    }
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"4", "6"}
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))
    with Image.open(trained / "reverse.gif") as film:
        assert film.n_frames == 3
    assert not list(trained.rglob("*.part"))


def test_flags_txt_repeats_the_run(trained, tmp_path):
    again = tmp_path / "again"
    done = program("ddpm", f"--flagfile={trained}/flags.txt", f"--workdir={again}")
    assert done.returncode == 0, done.stderr
    assert (again / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()
    assert (again / "flags.txt").read_text() == (trained / "flags.txt").read_text()
    for a, b in zip(*(jax.tree.leaves(load(f).params) for f in (trained, again)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_stopped_and_taken_up_equals_whole(trained, tmp_path):
    """Stopped at step 3, inside a window of the log, and taken up again: equal to the last bit."""
    folder = tmp_path / "halves"
    # The rate's cosine ends at --steps, so the first half is cut by its checkpoints, not --steps.
    flags = (*RUN_FLAGS, f"--workdir={folder}", "--log_every=2", "--checkpoint_every=3")
    assert program("ddpm", *flags, "--steps=6").returncode == 0
    shutil.rmtree(folder / "checkpoints" / "6")
    done = program("ddpm", *flags, "--steps=6")
    assert done.returncode == 0, done.stderr
    assert "going on from step 3 of 6" in done.stdout
    assert (folder / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()
    for a, b in zip(*(jax.tree.leaves(load(f).params) for f in (trained, folder)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_is_left_as_it_is(trained):
    before = (trained / "metrics.jsonl").read_text()
    done = program("ddpm", *RUN_FLAGS, "--steps=6", f"--workdir={trained}")
    assert done.returncode == 0, done.stderr
    assert (trained / "metrics.jsonl").read_text() == before


def test_default_workdir_is_the_commands_own(tmp_path):
    for _ in range(2):
        done = program("ddpm", *RUN_FLAGS, "--steps=2", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "going on from step 2 of 2" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"ddpm_embedded_[0-9a-f]{8}", folder.name)


def test_plain_progress_lines_where_there_is_no_terminal(tmp_path):
    done = program("ddpm", *RUN_FLAGS, "--steps=2", f"--workdir={tmp_path}/r")
    line = r"step 2/2  loss \d+\.\d+  \d+\.\d+ steps/s  \d+ images/s  \d+:\d+ left"
    assert re.search(line, done.stderr), done.stderr


def test_class_conditional_hybrid_accumulated_bfloat16(tmp_path):
    """And drawn from, with the label after the last for no class."""
    flags = [f.replace("unet(", "unet(num_class_embeds=10,dtype='bfloat16',") for f in RUN_FLAGS]
    folder = tmp_path / "conditional"
    options = ("--accumulate=2", "--steps_per_dispatch=2", "--steps=4", f"--workdir={folder}")
    losses = (
        "--loss=hybrid", "--learned_variance", "--times=importance", "--weighting=min_snr",
        "--huber=0.1", "--cond_drop=0.2", "--sampler=ddpm(variance='learned')",
    )  # fmt: skip
    done = program("ddpm", *flags, *options, *losses)
    assert done.returncode == 0, done.stderr
    done = program("sample", f"--run={folder}", "--num=3", "--steps=2", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    run = load(folder)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(run.params)} == {"float32"}
    assert run.config.num_classes == 10
    assert (run.model.num_class_embeds, run.model.out_channels) == (11, 2)


def test_neither_torch_nor_tensorflow_is_imported(trained, tmp_path):
    code = (
        "import sys; from experiments import ddpm; import diffjax.trained as t;"
        f"t.load({str(trained)!r});"
        "print(sorted({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "[]", out.stderr


# config.json of a run that was made when there was one loss.
BEFORE = """{
  "experiment": "ddpm",
  "image_shape": [
    28,
    28,
    1
  ],
  "model": "unet(in_channels=1, out_channels=1, sample_size=28, num_class_embeds=10)",
  "num_classes": 10,
  "schedule": "cosine()",
  "target": "v",
  "training": {
    "batch_size": 16,
    "dataset": "embedded",
    "seed": 0
  }
}"""


def test_a_run_from_before_there_were_losses_goes_on(tmp_path):
    config = RunConfig.from_json(BEFORE)
    assert (config.loss, config.weighting, config.times) == ("denoising", "simple()", "grid()")
    # Its name, too, which is a digest of this.
    assert config.to_json() == BEFORE
    (tmp_path / "config.json").write_text(BEFORE)
    with RunFolder.create(tmp_path, config, ""):
        pass
    other = dataclasses.replace(config, huber=0.1)
    assert RunConfig.from_json(other.to_json()) == other
    message = r"made with huber=0.0, not 0.1"
    with pytest.raises(UserError, match=message), RunFolder.create(tmp_path, other, ""):
        pass


@dataclasses.dataclass
class Shapes:
    """What a config needs of a data set."""

    image_shape: tuple[int, int, int] = (28, 28, 1)
    num_classes: int | None = 10


@pytest.fixture
def loss_of():
    """The config and loss that flags describe; they are put back afterwards."""
    saved = {name: flags.FLAGS[name].value for name in flags.FLAGS}

    def make(*values):
        flags.FLAGS(["ddpm", *RUN_FLAGS, *values])
        config = ddpm.describe(Shapes())
        return config, ddpm.make_loss(config, *build(config))

    yield make
    for name, value in saved.items():
        flags.FLAGS[name].value = value
    flags.FLAGS.unparse_flags()


CONDITIONAL = f"{TINY[:-1]},num_class_embeds=10)"


def test_flags_that_are_left_out_make_the_run_that_they_made_before(loss_of):
    config, _ = loss_of(CONDITIONAL)
    assert not {"loss", "weighting", "times", "huber"} & set(json.loads(config.to_json()))


def test_classes_are_the_networks_or_the_flags(loss_of):
    (by_model, _), (by_flag, _) = loss_of(CONDITIONAL), loss_of("--num_classes=10")
    assert by_flag == by_model
    dropped, _ = loss_of("--num_classes=10", "--cond_drop=0.1")
    assert "num_class_embeds=11" in dropped.model, "one more for no class"


def test_sigma_data_is_the_weightings_too(loss_of):
    config, _ = loss_of("--weighting=edm", "--sigma_data=0.3", "--times=log_normal")
    assert (config.weighting, config.times) == ("edm(sigma_data=0.3)", "log_normal()")
    assert build(config)[1].sigma_data == 0.3


def test_continuous_bound_has_times_of_its_own(loss_of):
    assert loss_of("--loss=continuous_vlb", "--schedule=monotone")[0].times == "uniform()"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("--loss=hybrid",), "choose loss denoising or vlb"),
        (("--learned_variance",), "choose loss hybrid or vlb"),
        (("--cond_drop=0.1",), "num_class_embeds"),
        ((CONDITIONAL, "--cond_drop=1"), "cond_drop=1.0"),
        ((CONDITIONAL, "--num_classes=9"), "--model takes 10 classes"),
        (("--num_classes=9",), "has num_class_embeds=9, but embedded has 10"),
        (("--loss=vlb", "--huber=0.1"), "--loss=denoising or hybrid"),
        (("--loss=vlb", "--weighting=min_snr"), "--loss=denoising or hybrid"),
        (("--loss=vlb", "--offset_noise=0.1"), "--loss=denoising"),
        (("--loss=vlb", "--times=logit_normal"), "uniform or importance, or grid"),
        (("--loss=continuous_vlb", "--times=grid"), "uniform or importance"),
        (("--schedule=monotone",), "choose loss continuous_vlb"),
        (("--sigma_data=0", "--target=edm"), "sigma_data"),
        ((f"{TINY[:-1]},out_channels=3)",), "need 1: leave it out"),
        (("--learned_variance", f"{TINY[:-1]},out_channels=1)"), "need 2 with --learned_variance"),
    ],
)
def test_what_does_not_go_together(loss_of, values, message):
    with pytest.raises(UserError, match=message) as caught:
        loss_of(*values)
    assert "\n" not in str(caught.value)

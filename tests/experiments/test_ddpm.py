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
from programs import RUN_FLAGS, TINY, check_refused, program

from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.data.embedded import CLASS_NAMES
from diffjax.errors import UserError
from diffjax.runs import RunConfig, load, open_run
from diffjax.spec import render
from diffjax.tasks.diffusion import Diffusion
from diffjax.training.run import RunFolder
from experiments import ddpm
from experiments.start.command import said


def weights(folder):
    return jax.tree.leaves(load(folder)["denoiser"].params)


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
    for a, b in zip(weights(trained), weights(again), strict=True):
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
    for a, b in zip(weights(trained), weights(folder), strict=True):
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
    assert re.fullmatch(r"diffusion_embedded_[0-9a-f]{8}", folder.name)


def test_plain_progress_lines_where_there_is_no_terminal(tmp_path):
    done = program("ddpm", *RUN_FLAGS, "--steps=2", f"--workdir={tmp_path}/r")
    line = r"step 2/2  loss \d+\.\d+  \d+\.\d+ steps/s  \d+ images/s  \d+:\d+ left"
    assert re.search(line, done.stderr), done.stderr


@pytest.mark.slow
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
    run = load(folder, Diffusion)
    assert {str(leaf.dtype) for leaf in weights(folder)} == {"float32"}
    assert run.task.condition == Label(10, drop=0.2, names=CLASS_NAMES)
    assert (run.task.model.num_class_embeds, run.task.model.out_channels) == (11, 2)


def test_neither_torch_nor_tensorflow_is_imported(trained, tmp_path):
    code = (
        "import sys; from experiments import ddpm; import diffjax.runs as t;"
        f"t.load({str(trained)!r});"
        "print(sorted({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "[]", out.stderr


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(Diffusion):
    """A later version's task, with an option that there was not when `trained` was made."""

    __module__ = Diffusion.__module__  # a task has its module's name
    tilt: float = 0.0


def later(config, **options):
    values = {
        field.name: getattr(config.task, field.name) for field in dataclasses.fields(Diffusion)
    }
    return RunConfig(Later(**values, **options), config.training)


def test_a_run_from_before_there_was_an_option_goes_on(trained, tmp_path):
    """An option at its default is neither in config.json nor in the name, a digest of it."""
    text = (trained / "config.json").read_text()
    assert json.loads(text)["config"].keys() == {"image_shape", "model", "schedule", "target"}
    config = open_run(trained)[1]
    same, other = later(config), later(config, tilt=0.5)
    assert (same.to_dict(), same.name()) == (config.to_dict(), config.name())
    assert other.name() != config.name()
    assert Later.from_dict(config.task.to_dict()) == same.task
    assert Later.from_dict(other.task.to_dict()) == other.task
    (tmp_path / "config.json").write_text(text)
    with RunFolder.create(tmp_path, same.to_dict(), ""):
        pass
    assert (tmp_path / "config.json").read_text() == text
    message = "made with tilt=its default, not 0.5"
    with pytest.raises(UserError, match=message), RunFolder.create(tmp_path, other.to_dict(), ""):
        pass
    (tmp_path / "config.json").write_text(json.dumps(other.to_dict()))
    message = "made with tilt=0.5, not its default"
    with pytest.raises(UserError, match=message), RunFolder.create(tmp_path, same.to_dict(), ""):
        pass


# config.json as it was before a run was a task.
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


def test_a_run_from_before_there_were_tasks_is_refused_in_one_line(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "config.json").write_text(BEFORE)
    check_refused(
        f"{run}/config.json cannot be read as a run's config",
        "sample",
        f"--run={run}",
        f"--out={tmp_path}/out",
    )
    assert not (tmp_path / "out").exists()
    check_refused(
        f"{run}/config.json has another version's form",
        "ddpm",
        *RUN_FLAGS,
        "--steps=6",
        f"--workdir={run}",
    )
    assert (run / "config.json").read_text() == BEFORE


@dataclasses.dataclass
class Shapes:
    """What a config needs of a data set."""

    image_shape: tuple[int, int, int] = (28, 28, 1)
    num_classes: int | None = 10
    class_names: tuple[str, ...] = tuple("abcdefghij")


@pytest.fixture
def loss_of():
    """The task and loss that flags describe; they are put back afterwards."""
    saved = {name: flags.FLAGS[name].value for name in flags.FLAGS}

    def make(*values):
        flags.FLAGS(["ddpm", *RUN_FLAGS, *values])
        task = ddpm.describe(Shapes())
        return task, task.loss({})

    yield make
    for name, value in saved.items():
        flags.FLAGS[name].value = value
    flags.FLAGS.unparse_flags()


CONDITIONAL = f"{TINY[:-1]},num_class_embeds=10)"


def test_flags_that_are_left_out_make_the_run_that_they_made_before(loss_of):
    task, _ = loss_of(CONDITIONAL)
    assert not {"objective", "weighting", "times", "huber"} & set(task.to_dict())


def test_classes_are_the_networks_or_the_flags(loss_of):
    (by_model, _), (by_flag, _) = loss_of(CONDITIONAL), loss_of("--num_classes=10")
    by_data, _ = loss_of("--num_classes=data")
    assert by_flag == by_model == by_data
    assert by_data.condition == Label(10, names=tuple("abcdefghij"))
    dropped, _ = loss_of("--num_classes=10", "--cond_drop=0.1")
    assert "num_class_embeds=11" in render(dropped.model), "one more for no class"


def test_a_transformer_has_the_classes_that_are_asked_for(loss_of):
    network = "--model=dit(num_layers=1,attention_head_dim=4,patch_size=4)"
    plain, _ = loss_of(network)
    assert plain.condition == Unconditional()
    assert plain.model.num_embeds_ada_norm is None
    told, _ = loss_of(network, "--num_classes=data", "--cond_drop=0.1")
    assert told.condition == Label(10, names=tuple("abcdefghij"), drop=0.1)
    assert told.model == plain.model.clone(num_embeds_ada_norm=10)
    assert (told.model.sample_size, told.model.in_channels, told.model.out_channels) == (28, 1, 1)
    with pytest.raises(UserError, match="--model has 1000 classes, but embedded has 10"):
        loss_of("--model=dit(num_embeds_ada_norm=1000,patch_size=4)")


def test_sigma_data_is_the_weightings_too(loss_of):
    task, _ = loss_of("--weighting=edm", "--sigma_data=0.3", "--times=log_normal")
    assert (render(task.weighting), render(task.times)) == ("edm(sigma_data=0.3)", "log_normal()")
    assert task.process.sigma_data == 0.3


def test_continuous_bound_has_times_of_its_own(loss_of):
    task, _ = loss_of("--loss=continuous_vlb", "--schedule=monotone")
    assert render(task.times) == "uniform()"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("--loss=hybrid",), "choose loss denoising or vlb"),
        (("--learned_variance",), "choose loss hybrid or vlb"),
        (("--cond_drop=0.1",), "num_class_embeds"),
        ((CONDITIONAL, "--cond_drop=1"), "cond_drop=1.0"),
        ((CONDITIONAL, "--num_classes=9"), "--model takes 10 classes"),
        (("--num_classes=9",), "has 9 classes, but embedded has 10"),
        (("--loss=vlb", "--huber=0.1"), r"choose loss denoising or hybrid \(--huber\)"),
        (("--loss=vlb", "--weighting=min_snr"), r"denoising or hybrid \(--weighting\)"),
        (("--loss=vlb", "--offset_noise=0.1"), r"choose loss denoising \(--offset_noise\)"),
        (("--loss=vlb", "--times=logit_normal"), "uniform or importance, or grid"),
        (("--loss=continuous_vlb", "--times=grid"), "uniform or importance"),
        (("--schedule=monotone",), "choose loss continuous_vlb"),
        (("--sigma_data=0", "--target=edm"), "sigma_data"),
        ((f"{TINY[:-1]},out_channels=3)",), "need 1: leave it out"),
        (("--learned_variance", f"{TINY[:-1]},out_channels=1)"), "need 2 with --learned_variance"),
    ],
)
def test_what_does_not_go_together(loss_of, values, message):
    with pytest.raises(UserError) as caught:
        loss_of(*values)
    line = said(caught.value)
    assert re.search(message, line)
    assert "\n" not in line

"""Updates that are not finite: skipped and counted, gone back from once, then the end."""

import json
import threading

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image
from programs import RUN_FLAGS, program

from diffjax import session
from diffjax.data.embedded import Embedded
from diffjax.runs import RunConfig
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.loop import Plan
from experiments import ddpm
from experiments.flags import learning

# Adam's steps are as large as the rate: after the first no output is finite.
EXPLODING = ("--learning_rate=1e30", "--max_bad_steps=5", "--steps=40")


class Flaky:
    """Real images, but those read between two counts are damaged, once."""

    def __init__(self, records, first, last):
        self._records, self._span = records, range(first, last)
        self._count, self._lock = 0, threading.Lock()
        self.image_shape, self.num_classes = records.image_shape, records.num_classes
        self.class_names, self.contents = records.class_names, records.contents

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        with self._lock:
            bad = self._count in self._span
            self._count += 1
        record = self._records[index]
        return {**record, "image": record["image"] * np.float32(np.nan)} if bad else record


@pytest.fixture
def set_flags():
    """Sets the program's flags; they are put back afterwards."""
    saved = {name: flags.FLAGS[name].value for name in flags.FLAGS}
    yield lambda *values: flags.FLAGS(["ddpm", *values])
    for name, value in saved.items():
        flags.FLAGS[name].value = value
    flags.FLAGS.unparse_flags()


def train(folder, records, set_flags, *more):
    set_flags(*RUN_FLAGS, f"--workdir={folder}", *more)
    task = ddpm.describe(records)
    config = RunConfig(task, learning.training())
    plan = Plan(
        learning.STEPS.value, learning.LOG_EVERY.value, learning.CHECKPOINT_EVERY.value,
        sample_every=1000,
    )  # fmt: skip
    conduct = session.Conduct(plan, max_bad_steps=learning.MAX_BAD_STEPS.value)
    loss, preview = task.loss({}), lambda step, params: None
    work = session.Setup(config, records, {}, loss, preview, conduct)
    with session.run_folder(str(folder), config, "", print) as run:
        return session.train_run(run, work)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_bad_batches_are_skipped_and_counted(tmp_path, set_flags, capsys):
    records = Flaky(Embedded().open("train", None), 80, 96)
    train(tmp_path / "run", records, set_flags, "--steps=40")
    skipped = sum(line["skipped"] for line in lines(tmp_path / "run"))
    assert 1 <= skipped <= 16
    said = capsys.readouterr()
    assert "going back" not in said.out
    assert " skipped  " in said.err


@pytest.mark.slow
def test_a_run_goes_back_once_and_on(tmp_path, set_flags, capsys):
    records = Flaky(Embedded().open("train", None), 160, 204)
    options = ("--steps=60", "--max_bad_steps=4")
    state = train(tmp_path / "run", records, set_flags, *options)
    out = capsys.readouterr().out
    assert out.count("going back to the ") == 1
    assert int(state.step) == 60
    assert all(np.isfinite(leaf).all() for leaf in map(np.asarray, jax.tree.leaves(state)))
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(2, 61, 2))
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        _, position = checkpoints.restore({"step": state.step})
    assert (position["returns"], position["in_row"]) == (1, 0)


@pytest.mark.slow
def test_a_run_that_explodes_again_stops_and_names_step_and_tensors(tmp_path):
    done = program("ddpm", *RUN_FLAGS, *EXPLODING, f"--workdir={tmp_path}/r")
    assert done.returncode == 1
    assert done.stdout.count("going back to the beginning") == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: step ")
    assert ": 5 updates in a row were not finite, the last in loss, denoiser/conv_in/bias" in last
    assert "lower the learning_rate" in last
    assert last.endswith("(--learning_rate)")
    assert "no checkpoint" in last


def test_a_damaged_image_is_skipped_and_named_where_that_is_allowed(tmp_path):
    for i in range(12):
        Image.new("L", (30, 20), 20 * i).save(tmp_path / f"{i:02}.png")
    whole = (tmp_path / "07.png").read_bytes()
    (tmp_path / "07.png").write_bytes(whole[: len(whole) // 2])
    options = (f"--dataset=folder(path='{tmp_path}')", "--image_size=28", "--steps=4")
    done = program("ddpm", *RUN_FLAGS, *options, "--max_bad_records=1", f"--workdir={tmp_path}/r")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("skipping a bad record, 1 of at most 1: ") == 1
    assert "07.png" in done.stderr


@pytest.mark.parametrize(("rate", "step", "told"), [
    ("cosine", 10, True), ("constant(cooldown=0.25)", 15, False),
    ("constant(cooldown=0.25)", 16, True),
])  # fmt: skip
def test_a_steady_rate_can_be_given_more_steps_until_it_cools(set_flags, rate, step, told):
    """A run of 20 steps, of which the last 5 cool, goes on to 40."""
    set_flags(*RUN_FLAGS, f"--rate={rate}")
    records = Embedded().open("train", None)
    config = RunConfig(ddpm.describe(records), learning.training())
    conduct = session.Conduct(Plan(40, 10, 10, sample_every=1000))
    loss = config.task.loss({})
    setup = session.Setup(config, records, {}, loss, lambda *shown: None, conduct)
    lines = list(session.changes(setup, {"steps": 20, "images": len(records)}, step))
    assert bool(lines) == told
    assert not told or rate.partition("(")[0] in lines[0]

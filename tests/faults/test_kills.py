"""Killed at random moments, mid-save among them, a run ends as one that was never interrupted."""

import json
import random
import re
import time

import jax
import numpy as np
import pytest
from programs import RUN_FLAGS, program, start

from diffjax.runs import open_run
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.step import init_state

pytestmark = pytest.mark.faults
STEPS = 600


def final_state(folder):
    run, config = open_run(folder)
    tx = config.training.make_optimizer(STEPS)
    like = jax.eval_shape(lambda key: init_state(config.task.init(key, {}), tx), jax.random.key(0))
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        return checkpoints.restore(like)


def test_kills(tmp_path, kills):
    """Each kill comes up to two seconds after the run has logged a line of its own."""
    flags = (*RUN_FLAGS, f"--steps={STEPS}", "--checkpoint_every=7", "--sample_every=50")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert program("ddpm", *flags, f"--workdir={whole}").returncode == 0
    rng = random.Random(0)
    resumed = []
    for _ in range(kills):
        process = start("ddpm", *flags, f"--workdir={killed}")
        before = (killed / "metrics.jsonl").stat().st_size if resumed else 0
        while process.poll() is None:
            path = killed / "metrics.jsonl"
            if path.exists() and path.stat().st_size > before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2))
        process.kill()
        out, err = process.communicate()
        assert "Traceback" not in err, err
        found = re.search(r"going on from step (\d+)", out)
        resumed.append(int(found.group(1)) if found else 0)
    done = program("ddpm", *flags, f"--workdir={killed}")
    assert done.returncode == 0, done.stderr
    # The first may fall before there is a checkpoint; those prove nothing of a resume.
    assert sum(step > 0 for step in resumed) >= 0.8 * kills, f"resumed at {resumed}"
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    ours, theirs = final_state(killed), final_state(whole)
    for a, b in zip(jax.tree.leaves(ours[0]), jax.tree.leaves(theirs[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert json.dumps(ours[1]) == json.dumps(theirs[1])
    print(f"{kills} kills, resumed at {resumed}")

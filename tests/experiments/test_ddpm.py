"""The main job through the command line: its files, and taking it up again."""

import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
from PIL import Image
from programs import RUN_FLAGS, program

from diffjax.trained import load


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


def test_class_conditional_accumulated_bfloat16(tmp_path):
    flags = [f.replace("unet(", "unet(num_class_embeds=10,dtype='bfloat16',") for f in RUN_FLAGS]
    folder = tmp_path / "conditional"
    options = ("--accumulate=2", "--steps_per_dispatch=2", "--steps=4", f"--workdir={folder}")
    done = program("ddpm", *flags, *options)
    assert done.returncode == 0, done.stderr
    done = program("sample", f"--run={folder}", "--num=3", "--steps=2", f"--out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    params = load(folder).params
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}


def test_neither_torch_nor_tensorflow_is_imported(trained, tmp_path):
    code = (
        "import sys; from experiments import ddpm; import diffjax.trained as t;"
        f"t.load({str(trained)!r});"
        "print(sorted({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "[]", out.stderr

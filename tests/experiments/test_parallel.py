"""One run on any number of devices and processes: the same losses, and checkpoints for all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from programs import ROOT, RUN_FLAGS, finish, program, start_all

# Dropout, so that its masks are seen to depend on no layout either.
FLAGS = (*(f.replace("unet(", "unet(dropout=0.2,") for f in RUN_FLAGS), "--steps=6")
LAYOUTS = ("2 pmap", "4 pmap", "1 jit", "2 jit", "4 jit", "2x2 pmap", "2x2 jit")
QUICK = ("2x2 pmap",)  # each layout compiles anew: the others are for .ci/run


def train(layout, folder, *flags):
    """Runs on DEVICES, or on PROCESSESxDEVICES; what the first process said."""
    where, parallelism = layout.split()
    flags = (*FLAGS, f"--parallelism={parallelism}", f"--workdir={folder}", *flags)
    if "x" not in where:
        all_done = [program("ddpm", *flags, devices=int(where))]
    else:
        count, devices = map(int, where.split("x"))
        all_done = list(map(finish, start_all("ddpm", *flags, count=count, devices=devices)))
    for done in all_done:
        assert done.returncode == 0, done.stderr
    assert "run folder: " in all_done[0].stdout
    for done in all_done[1:]:  # the first alone speaks, but for JAX's Gloo, a thread into another
        assert not any(said in done.stdout for said in ("run folder", "going on", "done", "step"))
    return all_done[0]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    return [[line["loss"], line["grad_norm"]] for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a whole run on each layout, made when asked for."""
    made = {}

    def run(layout):
        if layout not in made:
            made[layout] = tmp_path_factory.mktemp("layouts") / layout.replace(" ", "_")
            train(layout, made[layout])
        return made[layout]

    return run


@pytest.mark.parametrize(
    "layout", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in LAYOUTS]
)
def test_losses_of_one_device(runs, layout):
    np.testing.assert_allclose(losses(runs(layout)), losses(runs("1 pmap")), rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "taken_up"),
    [("2x2 pmap", "1 pmap"), ("1 pmap", "2x2 jit"), ("4 jit", "2 pmap"), ("2x2 jit", "2x2 pmap")],
)
def test_a_checkpoint_of_one_layout_goes_on_in_another(runs, tmp_path, made, taken_up):
    folder = tmp_path / "run"
    shutil.copytree(runs(made), folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    done = train(taken_up, folder)
    assert "going on from step 4 of 6" in done.stdout
    np.testing.assert_allclose(losses(folder), losses(runs("1 pmap")), rtol=2e-5)


@pytest.fixture
def long_run(tmp_path):
    """A run of two processes that has begun to train."""
    folder = tmp_path / "run"
    flags = (*FLAGS, "--steps=100000", "--sample_every=100000", "--checkpoint_every=100000")
    both = start_all("ddpm", *flags, f"--workdir={folder}", devices=1)
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert all(p.poll() is None for p in both), [p.communicate()[1] for p in both]
        time.sleep(0.1)
    yield folder, both
    for process in both:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_one_process_ends_the_other_with_the_reason(long_run, victim):
    _, both = long_run
    both[victim].kill()
    done = finish(both[1 - victim])
    assert done.returncode != 0
    assert "lost another process" in done.stderr or "another task died" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("who", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_signal_to_one_process_stops_all_at_one_step(long_run, who, number):
    folder, both = long_run
    both[who].send_signal(number)
    ends = list(map(finish, both))
    assert [done.returncode for done in ends] == [0, 0], [done.stderr for done in ends]
    step = int(ends[0].stdout.split("stopped at step ")[1].split(":")[0])
    assert [p.name for p in (folder / "checkpoints").iterdir()] == [str(step)]


@pytest.mark.slow
def test_a_refused_run_ends_all_processes(runs):
    both = start_all("ddpm", *FLAGS, "--seed=5", f"--workdir={runs('1 pmap')}", devices=1)
    first, second = map(finish, both)
    assert "was made with seed=0, not 5" in first.stderr
    assert first.returncode == 1
    assert second.returncode != 0


@pytest.mark.parametrize(
    "flags", [("--coordinator=127.0.0.1:1",), ("--distributed", "--num_processes=2")]
)
def test_half_an_address(tmp_path, flags):
    done = program("ddpm", *FLAGS, f"--workdir={tmp_path}/r", *flags)
    assert done.returncode == 1
    assert done.stderr == (
        "error: --coordinator, --num_processes and --process_id go together, with --distributed\n"
    )


@pytest.mark.parametrize(
    ("said", "devices"),
    [
        ({}, 3),
        ({"JAX_NUM_CPU_DEVICES": "2"}, 2),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, 4),
    ],
)
def test_cpu_devices_are_as_many_as_the_environment_says_or_the_flag(said, devices):
    lines = (
        "import jax; from absl import flags; from experiments.flags import cpu_devices",
        "flags.FLAGS(['ddpm', '--cpu_devices=3']); cpu_devices.split_cpu(2)",
        "print(jax.device_count())",
    )
    around = {k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT, env={**around, **said}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == devices

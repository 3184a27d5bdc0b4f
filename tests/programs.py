"""The programs as a user runs them: in processes of their own."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import forks
from forks import ROOT

TIMEOUT = 300  # seconds
TINY = (
    "--model=unet(block_out_channels=(8,),layers_per_block=1,norm_num_groups=4,mid_block_type=None,"
    "down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',))"
)
# A run of a tiny network on the default flagfile's data.
RUN_FLAGS = (
    f"--flagfile={ROOT}/experiments/flagfiles/ddpm_fashion_mnist.flags",
    TINY,
    "--num_classes=0",
    "--batch_size=8",
    "--log_every=2",
    "--checkpoint_every=2",
    "--sample_every=4",
    "--sample_steps=3",
    "--num_samples=4",
    "--warmup_steps=2",
)
# A run of a tiny judge on the same data.
JUDGE_FLAGS = (
    f"--flagfile={ROOT}/experiments/flagfiles/classifier_embedded.flags",
    "--model=classifier(channels=(8,),num_features=8,dropout=0.1)",
    "--batch_size=8",
    "--log_every=2",
    "--checkpoint_every=2",
    "--eval_every=4",
    "--warmup_steps=2",
    "--steps=4",
)


# Many calls of a program, of which each start would take longer than what it does here.
END = "=====\n"
CALLS = f"""
import importlib, json, sys
from absl import flags
from absl.testing import flagsaver
from diffjax.errors import UserError
from experiments.start.command import said
name, calls = sys.argv[1], json.loads(sys.argv[2])
program = importlib.import_module("experiments." + name)
for argv in calls:
    with flagsaver.flagsaver():
        try:
            flags.FLAGS([name, *argv])
            program.main()
        except UserError as error:
            print("refused:", said(error))
        except flags.Error as error:
            print("refused:", " ".join(str(error).split()))
        print({END!r}, end="")
"""
# What is compiled where a run is read and nothing is computed.
READING = {"jit__threefry_seed", "jit_stage", "jit__reduce_all", "jit_equal"}


def start(
    name: str, *flags: str, cwd: pathlib.Path = ROOT, devices: int = 1, **environ: str
) -> subprocess.Popen[str]:
    """python -m experiments.NAME, running, on so many virtual devices."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *flags],
        cwd=cwd,
        env=environment(devices, **environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment(devices: int, **environ: str) -> dict[str, str]:
    """What a program is told, on so many virtual devices."""
    own = {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": str(devices)}
    return {**os.environ, **own, **environ}


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Waits for a started program; its output is in .stdout and .stderr."""
    out, err = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def program(
    name: str, *flags: str, cwd: pathlib.Path = ROOT, devices: int = 1, **environ: str
) -> subprocess.CompletedProcess[str]:
    """python -m experiments.NAME, from start to end, in a child of `forks`."""
    told = environment(devices, **environ)
    return forks.run(["-m", f"experiments.{name}", *flags], cwd, told, TIMEOUT)


def python(code: str, *arguments: str, devices: int = 1) -> subprocess.CompletedProcess[str]:
    """python -c CODE, from start to end, in a child of `forks`."""
    return forks.run(["-c", code, *arguments], ROOT, environment(devices), TIMEOUT)


def calls(name: str, *each: Sequence[str], devices: int = 1) -> list[str]:
    """What a program prints for each list of flags, what it refuses included, in one process."""
    done = python(CALLS, name, json.dumps(each), devices=devices)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split(END)[:-1]
    assert len(said) == len(each), done.stdout
    return said


def start_all(name: str, *flags: str, count: int = 2, devices: int = 2) -> list[Any]:
    """One run of `count` processes on this machine, each with so many virtual devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    common = (*flags, "--distributed", where, f"--num_processes={count}")
    return [start(name, *common, f"--process_id={i}", devices=devices) for i in range(count)]


def check_refused(message: str, name: str, *flags: str) -> None:
    """The program ends with one line that holds `message`, before it compiles a network."""
    with tempfile.TemporaryDirectory() as cache:
        done = program(name, *flags, JAX_COMPILATION_CACHE_DIR=cache)
        compiled = {path.name.split("-")[0] for path in pathlib.Path(cache).glob("*-cache")}
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert compiled <= READING

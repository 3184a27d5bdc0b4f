"""Programs run as a user runs them: in a process of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
TINY = (
    "--model=unet(block_out_channels=(8,16),layers_per_block=1,norm_num_groups=4,"
    "down_block_types=('DownBlock2D','DownBlock2D'),up_block_types=('UpBlock2D','UpBlock2D'))"
)


@pytest.fixture(scope="session")
def program():
    """program(name, *flags) -> the finished process; output is in .stdout and .stderr."""

    def run(name: str, *flags: str, cwd: pathlib.Path = ROOT, **env: str):
        return subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", *flags],
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def run_flags():
    """A run of a few steps of a tiny network."""
    return (
        f"--flagfile={ROOT}/experiments/flagfiles/ddpm_fashion_mnist.flags",
        TINY,
        "--batch_size=8",
        "--log_every=2",
        "--checkpoint_every=2",
        "--sample_every=4",
        "--sample_steps=3",
        "--num_samples=4",
        "--warmup_steps=2",
    )


@pytest.fixture(scope="session")
def trained(program, run_flags, tmp_path_factory):
    """The folder of a finished run of 6 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = program("ddpm", *run_flags, "--steps=6", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder

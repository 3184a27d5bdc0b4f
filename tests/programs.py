"""The programs as a user runs them: in a process of their own."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
TINY = (
    "--model=unet(block_out_channels=(8,16),layers_per_block=1,norm_num_groups=4,"
    "down_block_types=('DownBlock2D','DownBlock2D'),up_block_types=('UpBlock2D','UpBlock2D'))"
)
# A run of a tiny network on the default flagfile's data.
RUN_FLAGS = (
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


def start(name: str, *flags: str, cwd: pathlib.Path = ROOT) -> subprocess.Popen[str]:
    """python -m experiments.NAME, running."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *flags],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Waits for a started program; its output is in .stdout and .stderr."""
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def program(name: str, *flags: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess[str]:
    """python -m experiments.NAME, from start to end."""
    return finish(start(name, *flags, cwd=cwd))

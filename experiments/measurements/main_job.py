"""The main job, which several benchmarks set beside something else."""

import functools
import pathlib

FLAGFILE = pathlib.Path(__file__).parents[1] / "flagfiles" / "ddpm_fashion_mnist.flags"


@functools.cache
def flagfile() -> dict[str, str]:
    """The main job's flags."""
    lines = FLAGFILE.read_text().splitlines()
    return dict(line[2:].split("=", 1) for line in lines if line.startswith("--"))

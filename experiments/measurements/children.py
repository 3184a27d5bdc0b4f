"""The programs as processes of their own."""

import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from diffjax.errors import UserError
from experiments.measurements import measuring

PAUSE = 0.1  # seconds between two looks at a process


class Finished(NamedTuple):
    """What a process took. peak_bytes: 0 where there is no /proc to read it from."""

    seconds: float
    peak_bytes: int


def run(module: str, *arguments: str, cores: int | None = None, **environ: str) -> Finished:
    """Runs a module to its end on so many cores, all unless said.

    Raises UserError with what it says last, where it fails.
    """
    # XLA's threads: programs beside each other that each have all cores get in each other's way.
    own = {} if cores is None else {"NPROC": str(cores)}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.DEVNULL, stderr=err, env={**os.environ, **own, **environ},
        )  # fmt: skip
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, peak_of(process.pid))
                time.sleep(PAUSE)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - start
        err.seek(0)
        if process.returncode:
            said = (err.read().strip().splitlines() or [f"exit {process.returncode}"])[-1]
            raise UserError(f"{module} ended: {said.removeprefix('error: ')}")
        return Finished(seconds, peak)


def peak_of(pid: int) -> int:
    """The most memory that a process had until now, in bytes; 0 where that cannot be read.

    What os.wait4 tells would be the parent's memory where that is more: a child starts in it.
    """
    try:
        return measuring.resident("VmHWM", pid)
    except (OSError, ValueError):
        return 0

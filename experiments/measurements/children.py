"""The programs as processes of their own."""

import os
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from diffjax.errors import UserError

# What ru_maxrss counts in: bytes on macOS, KiB elsewhere.
UNIT = 1 if sys.platform == "darwin" else 1024


class Finished(NamedTuple):
    """What a process took."""

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
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        err.seek(0)
        if process.returncode:
            said = (err.read().strip().splitlines() or [f"exit {process.returncode}"])[-1]
            raise UserError(f"{module} ended: {said.removeprefix('error: ')}")
        return Finished(seconds, usage.ru_maxrss * UNIT)

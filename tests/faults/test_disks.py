"""A disk that fills up at any moment, and one that cannot be written: one line, nothing lost."""

import json
import random
import shutil
import subprocess

import numpy as np
import pytest
from programs import RUN_FLAGS, finish, program, start

pytestmark = pytest.mark.faults
FLAGS = (*RUN_FLAGS, "--steps=40", "--checkpoint_every=5", "--sample_every=20")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 20 MB in memory; what it takes is a mount, which is root's.

    A run needs 16: its newest two checkpoints, the next, and the report beside the one it replaces.
    """
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The metrics of the run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = program("ddpm", *FLAGS, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return (folder / "metrics.jsonl").read_text()


def check_refused(done):
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_a_disk_fills_up(small_disk, whole, fillings):
    """A random rest of it is free at each start; once there is room, the run ends as one."""
    rng, said = random.Random(0), []
    ballast = small_disk / "ballast"
    for i in range(fillings):
        free = shutil.disk_usage(small_disk).free
        # In turn too little for a checkpoint, and enough for that but not for the report.
        rest = rng.randrange(*((100_000, 1_000_000), (2_000_000, 4_500_000))[i % 2])
        ballast.write_bytes(bytes(max(0, free - rest)))
        done = program("ddpm", *FLAGS, f"--workdir={small_disk}/run")
        if done.returncode:
            line = check_refused(done)
            assert "No space left on device" in line
            said.append(line)
        ballast.unlink()
    done = program("ddpm", *FLAGS, f"--workdir={small_disk}/run")
    assert done.returncode == 0, done.stderr
    assert (small_disk / "run" / "metrics.jsonl").read_text() == whole
    for what in ("checkpoint", "report.html"):
        assert any(what in line.rpartition("/")[2] for line in said), said
    print(f"{fillings} fillings, {len(said)} stopped the run:", *said, sep="\n")


def test_a_disk_becomes_read_only(small_disk, whole):
    run = small_disk / "run"
    process = start("ddpm", *FLAGS, "--steps=100000", f"--workdir={run}")
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()[1]
    process.terminate()
    assert finish(process).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    line = check_refused(program("ddpm", *FLAGS, "--steps=100000", f"--workdir={run}"))
    assert "Read-only file system" in line
    line = check_refused(program("report", f"--run={run}"))
    assert "Read-only file system" in line
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    step = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert np.isfinite(step)

"""Asked to stop, a run saves, ends well and goes on later; two runs never share a folder."""

import signal
import time

import pytest
from programs import RUN_FLAGS, finish, program, start


def metrics(folder):
    path = folder / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def wait_for_line(folder, process):
    """Until the run has begun to train."""
    while not metrics(folder):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_ends_well(tmp_path, number):
    flags = (*RUN_FLAGS, "--steps=5000", "--checkpoint_every=5000", "--sample_every=5000")
    process = start("ddpm", *flags, f"--workdir={tmp_path}/r")
    wait_for_line(tmp_path / "r", process)
    process.send_signal(number)
    done = finish(process)
    assert done.returncode == 0, done.stderr
    step = int(done.stdout.split("stopped at step ")[1].split(":")[0])
    assert step < 5000
    assert [p.name for p in (tmp_path / "r" / "checkpoints").iterdir()] == [str(step)]
    again = start("ddpm", *flags, f"--workdir={tmp_path}/r")
    lines = [again.stdout.readline() for _ in range(3)]
    assert lines[2] == f"going on from step {step} of 5000\n"
    again.kill()
    again.communicate()


def test_the_second_run_on_a_folder_is_refused(tmp_path):
    flags = (*RUN_FLAGS, "--steps=5000", f"--workdir={tmp_path}/r")
    first = start("ddpm", *flags)
    wait_for_line(tmp_path / "r", first)
    second = program("ddpm", *flags)
    assert second.returncode == 1
    assert "is in use by another process" in second.stderr
    first.kill()
    first.communicate()
    third = start("ddpm", *flags)  # a dead run leaves no lock behind
    lines = [third.stdout.readline() for _ in range(2)]
    third.kill()
    assert lines[1].startswith("run folder:"), third.communicate()

"""The convolutions' table from the command line: who reads it, what a stop leaves, refusals."""

import json
import re
import signal
import time

import pytest
from programs import check_refused, finish, program, start

from diffjax.models.convolution import choice
from diffjax.models.convolution.choice import Measured
from diffjax.models.convolution.window import Window
from experiments.measurements.run_step import changes, is_faster

SMALL = ("convolutions", "--batch=1", "--size=4", "--width=8")


@pytest.fixture
def tuned(tmp_path, monkeypatch):
    """Where this machine's own table would be."""
    path = tmp_path / "new" / "table.json"
    monkeypatch.setattr(choice, "TUNED", path)
    choice.table.cache_clear()
    yield path
    choice.table.cache_clear()


def test_the_table_is_what_the_library_reads(tuned, capsys):
    done = program("benchmark", *SMALL, f"--out={tuned}")
    assert done.returncode == 0, done.stderr
    table = choice.table()
    assert capsys.readouterr().err == ""
    # Blocks with and without a state put beside, a shortcut, a halving, both ends.
    shapes = {
        (3, 1, 8, 8), (3, 1, 16, 8), (1, 1, 16, 8), (3, 2, 8, 8), (3, 1, 3, 8), (3, 1, 8, 3),
    }  # fmt: skip
    assert {(row.kernel, row.stride, row.inputs, row.outputs) for row in table} == shapes
    assert len(table) == len(choice.OPERATIONS) * len(shapes)
    for row in table:
        assert (row.batch, row.size) == (1, 4)
        assert row.gain == 1 if row.path == "direct" else row.gain >= 1.1
        pad = (0, 1) if row.stride == 2 else (row.kernel // 2,) * 2
        window = Window((row.kernel,) * 2, (row.stride,) * 2, (pad, pad))
        kernel = (row.kernel, row.kernel, row.inputs, row.outputs)
        chosen = choice.choose(row.operation, (1, 4, 4, row.inputs), kernel, window)
        assert chosen is choice.PATHS[row.path]
    # A row a line, and what it was measured on.
    lines = tuned.read_text().splitlines()
    assert sum('"forward"' in line for line in lines) == len(shapes)
    assert json.loads(tuned.read_text())["environment"]["cpu"]
    counts = [sum(row.path == name for row in table) for name in choice.PATHS]
    told = ", ".join(f"{name} {count}" for name, count in zip(choice.PATHS, counts, strict=True))
    assert done.stdout == f"{told}\n{len(table)} measurements in {tuned}\n"
    assert [path.name for path in tuned.parent.iterdir()] == [tuned.name]


@pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
    reason="the shell that started pytest in the background has SIGINT ignored",
)
def test_stopped_before_the_end_it_leaves_no_table(tuned):
    process = start("benchmark", "convolutions", f"--out={tuned}")  # all of it takes minutes
    while not tuned.parent.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    while process.poll() is None:  # a signal may fall into a callback, which swallows it
        time.sleep(0.5)  # it measures now
        process.send_signal(signal.SIGINT)
    assert finish(process).returncode != 0
    assert list(tuned.parent.iterdir()) == []


@pytest.mark.slow
def test_a_table_for_a_run_is_kept_where_its_step_is_faster(trained, tuned):
    """Other shapes stay as they are, and the run's own come first."""
    done = program("benchmark", "convolutions", f"--run={trained}", "--seconds=2", f"--out={tuned}")
    assert done.returncode == 0, done.stderr
    told = re.search(
        r"^(\d+) of (\d+) shapes measured, (\d+) go another way.*: ([\d.]+) times as fast",
        done.stdout, re.MULTILINE,
    )  # fmt: skip
    measured, asked, changed, ratio = int(told[1]), int(told[2]), int(told[3]), float(told[4])
    assert 0 < measured <= asked
    assert changed <= measured
    assert tuned.exists() == ("measurements in" in done.stdout)
    assert tuned.exists() != ("the table stays as it was" in done.stdout)
    assert ratio > 1 or not tuned.exists()
    if tuned.exists():
        rows = json.loads(tuned.read_text())["rows"]
        assert len({tuple(row[:7]) for row in rows}) == len(rows) >= len(choice.table())


def test_a_gain_must_be_seen_in_most_rounds():
    assert is_faster([1.1, 1.0, 1.05, 0.8, 1.2, 1.03, 1.1])
    assert not is_faster([1.1, 0.9, 1.3, 0.8, 1.2, 1.03, 1.1])
    assert not is_faster([1.01] * 7)


def test_which_shapes_go_another_way():
    one = Measured("forward", 3, 1, 2, 8, 4, 4, "direct", 1.0)
    other = one._replace(batch=4, path="im2col")
    found = [one._replace(path="winograd2", gain=1.3), other._replace(gain=1.2)]
    assert changes([one, other], found) == 1


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--batch=0", "--batch=0"),
        ("--run={folder}", "--batch does nothing with --run"),
        ("--seconds=5", "--seconds does nothing without --run"),
        ("--out={folder}", "is a folder"),
        ("--out={file}/table.json", "make room or mend it"),
    ],
)
def test_what_is_refused(flag, message, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    check_refused(message, "benchmark", *SMALL, flag.format(folder=tmp_path, file=file))
    assert file.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [file]

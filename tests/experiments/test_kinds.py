"""Flags refuse, when they are parsed, what cannot be meant; and every program uses these kinds."""

import ast
import os
import re
import subprocess
import sys

import pytest
from absl import flags
from programs import ROOT, RUN_FLAGS, program

from experiments.flags import kinds

# Flags of free text.
WORDS = ("mask", "coordinator", "model", "negative", "license", "data_license")


@pytest.fixture
def own():
    """Flags of one test alone."""
    values = flags.FlagValues()
    flags.DEFINE(kinds.NumberParser(0, 10), "rate", 1.0, "", values, flags.ArgumentSerializer())
    flags.DEFINE(kinds.PathParser(), "out", "~/x", "", values, flags.ArgumentSerializer())
    return values


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "11", "-1", "", "x"])
def test_numbers_that_are_none(own, value):
    with pytest.raises(flags.IllegalFlagValueError, match="rate"):
        own(["program", f"--rate={value}"])


def test_paths_begin_at_home(own, monkeypatch):
    own(["program"])
    assert own.out == os.path.expanduser("~/x") != "~/x"
    own(["program", "--out=~/y", "--rate=2.5"])
    assert (own.out, own.rate) == (os.path.expanduser("~/y"), 2.5)
    for bad in ("", " ", "a\0b"):
        with pytest.raises(flags.IllegalFlagValueError, match="out"):
            own(["program", f"--out={bad}"])


def test_every_number_seed_and_path_of_a_program_is_of_these_kinds():
    """absl's own takes NaN, and numbers that no array holds."""
    for path in (ROOT / "experiments").rglob("*.py"):
        if path.name == "kinds.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert not re.fullmatch(r"flags\.DEFINE_(multi_)?(float|integer)", name), path
                if name == "flags.DEFINE_string":
                    assert node.args[0].value in WORDS, path


def test_counts_are_numbers_or_the_data_s(own):
    parser, serializer = kinds.CountParser(0, 10), flags.ArgumentSerializer()
    flags.DEFINE(parser, "classes", 0, "", own, serializer)
    for value, meant in (("data", "data"), ("3", 3)):
        own(["program", f"--classes={value}"])
        assert own.classes == meant
    for bad in ("-1", "11", "three", "1.5", ""):
        with pytest.raises(flags.IllegalFlagValueError, match="whole number, or data"):
            own(["program", f"--classes={bad}"])


@pytest.mark.parametrize("seed", ["4294967296", "-1", "9223372036854775808"])
def test_a_seed_that_would_be_another_s(seed, tmp_path):
    done = program("ddpm", *RUN_FLAGS, f"--seed={seed}", f"--workdir={tmp_path}/r")
    assert done.returncode == 2
    assert "[0, 4294967295]" in done.stderr
    assert not (tmp_path / "r").exists()


def started(*lines, **environ):
    """A program whose main is given, in a process of its own."""
    code = "\n".join(("from experiments.start.command import run", *lines))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environ},
        capture_output=True, timeout=120,
    )  # fmt: skip


def test_text_that_the_terminal_cannot_show():
    done = started("run(lambda: print('Fréchet', '\\udce9'))", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, b"Fr\\xe9chet \\udce9\n"), done.stderr


def test_under_optimised_python_it_says_so():
    done = started("run(lambda: print('never'))", PYTHONOPTIMIZE="1")
    assert done.returncode == 2
    assert done.stdout == b""
    assert b"unset PYTHONOPTIMIZE" in done.stderr


def test_a_platform_without_a_device():
    done = started("import jax", "run(jax.devices)", JAX_PLATFORMS="cuda")
    assert done.returncode == 1
    lines = done.stderr.decode().strip().splitlines()
    assert lines[-1].startswith("error: JAX finds no device for JAX_PLATFORMS='cuda'")
    assert "Traceback" not in done.stderr.decode()


def test_a_closed_stderr(tmp_path):
    """A run trains on, and its checkpoint is there."""
    command = [
        sys.executable, "-m", "experiments.ddpm", *RUN_FLAGS, "--steps=2",
        f"--workdir={tmp_path}/r",
    ]  # fmt: skip
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    done = subprocess.run(
        closed,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        timeout=300,
    )
    assert done.returncode == 0
    assert (tmp_path / "r" / "checkpoints" / "2").is_dir()


def test_the_generator_of_the_environment_changes_no_image():
    """Numbers of rbg would depend on the batch size."""
    done = started(
        "import jax",
        "run(lambda: print(jax.random.key_impl(jax.random.key(0))))",
        JAX_DEFAULT_PRNG_IMPL="rbg",
    )
    assert done.stdout == b"threefry2x32\n", done.stderr

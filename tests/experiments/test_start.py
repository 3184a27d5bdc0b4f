"""What a program arranges before it computes: huge pages and a folder of compiled programs."""

import os
import subprocess
import sys

import pytest

from experiments.start import huge_pages

COMPILE = (
    "from experiments.start.command import keep_compiled; keep_compiled(); "
    "import jax; jax.jit(lambda a: a + 1)(1.0)"
)


@pytest.fixture
def started(monkeypatch, tmp_path):
    """`python -m experiments.ddpm --steps=3`, as it stands while the package is imported."""
    enabled = tmp_path / "enabled"
    enabled.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "ENABLED", enabled)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36")
    monkeypatch.setattr(sys, "argv", ["-m", "--steps=3"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "experiments.ddpm", "--steps=3"])
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # and so put back whatever is written
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    return calls


@pytest.mark.parametrize("before", ["", "glibc.malloc.arena_max=2"])
def test_a_program_starts_again_with_huge_pages(started, monkeypatch, before):
    if before:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    huge_pages.start_with_huge_pages()
    assert started == [(sys.executable, [sys.executable, "-m", "experiments.ddpm", "--steps=3"])]
    tunables = os.environ["GLIBC_TUNABLES"].split(":")
    assert tunables == [*filter(None, [before]), "glibc.malloc.hugetlb=1"]
    huge_pages.start_with_huge_pages()
    assert len(started) == 1, "once is enough"


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(sys, "argv", ["pytest"]),
        lambda patch: patch.setattr(sys, "orig_argv", ["python", "-m", "pytest"]),
        lambda patch: patch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0"),
        lambda patch: patch.setattr(os, "confstr", lambda name: "glibc 2.31"),
        lambda patch: patch.setattr(os, "confstr", lambda name: None),
        lambda patch: huge_pages.ENABLED.write_text("[always] madvise never\n"),
        lambda patch: huge_pages.ENABLED.unlink(),
    ],
)  # fmt: skip
def test_others_are_left_alone(started, monkeypatch, change):
    change(monkeypatch)
    huge_pages.start_with_huge_pages()
    assert started == []


def run_compile(tmp_path, **variables):
    keep = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environ = {**keep, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path), **variables}
    command = [sys.executable, "-c", COMPILE]
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True)


def compile_one(tmp_path, **variables):
    run_compile(tmp_path, **variables)
    return {folder.name for folder in tmp_path.iterdir() if any(folder.rglob("*-cache"))}


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")
def test_compiled_programs_are_kept_in_the_users_cache_folder(tmp_path):
    assert compile_one(tmp_path) == {"diffjax"}
    written = sorted(tmp_path.rglob("*-cache"))
    assert compile_one(tmp_path) == {"diffjax"}
    assert sorted(tmp_path.rglob("*-cache")) == written


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")
def test_a_folder_that_cannot_be_made_is_no_fault(tmp_path):
    (tmp_path / "diffjax").write_text("no folder")
    done = run_compile(tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="XDG_CACHE_HOME is Linux's")
def test_or_where_jaxs_own_variables_say(tmp_path):
    assert compile_one(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false") == set()
    assert compile_one(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "other")) == {"other"}


def test_what_only_training_needs_is_not_imported_for_help():
    listing = "import sys, experiments.ddpm; print(*sys.modules)"
    command = [sys.executable, "-c", listing]
    modules = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert "experiments.ddpm" in modules
    slow = ("grain.", "orbax.checkpoint.", "tensorflow_datasets.", "torch", "matplotlib.")
    assert [name for name in modules if name.startswith(slow)] == []

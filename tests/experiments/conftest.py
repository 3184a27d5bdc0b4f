"""Finished runs for the tests that only read them."""

import pytest
from programs import JUDGE_FLAGS, RUN_FLAGS, program


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished run of 6 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = program("ddpm", *RUN_FLAGS, "--steps=6", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def judge(tmp_path_factory):
    """The folder of a finished run of experiments.classifier, of 4 steps."""
    folder = tmp_path_factory.mktemp("judges") / "whole"
    done = program("classifier", *JUDGE_FLAGS, f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder

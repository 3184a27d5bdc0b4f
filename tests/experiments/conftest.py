"""One finished run for the tests that only read it."""

import pytest
from programs import RUN_FLAGS, program


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a finished run of 6 steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = program("ddpm", *RUN_FLAGS, "--steps=6", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder

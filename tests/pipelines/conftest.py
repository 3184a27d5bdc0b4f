"""Tiny pipelines, one of each kind, for all tests of this folder."""

import pytest
from tiny_pipeline import write_folder

import diffjax as dj


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("pipelines") / "sd")


@pytest.fixture(scope="session")
def pipe(folder):
    return dj.load_pipeline(folder)


@pytest.fixture(scope="session")
def xl(tmp_path_factory):
    return dj.load_pipeline(write_folder(tmp_path_factory.mktemp("pipelines") / "xl", xl=True))


@pytest.fixture(scope="session")
def painter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines") / "painter"
    return dj.load_pipeline(write_folder(folder, in_channels=9))

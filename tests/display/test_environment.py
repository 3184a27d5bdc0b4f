"""The environment names versions and hardware, and neither people nor places."""

import importlib
import json
import os
import pathlib
import platform

import jax
import pytest

from diffjax.display.environment import environment


@pytest.mark.parametrize("package", ["jax", "jaxlib", "flax", "optax", "numpy"])
def test_versions_are_those_that_run(package):
    assert environment()[package] == importlib.import_module(package).__version__


def test_hardware():
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["devices"] == f"{len(jax.devices())} × {jax.devices()[0].device_kind}"
    assert 1 <= int(found["cores"]) <= os.cpu_count()
    assert float(found["memory"].removesuffix(" GiB")) > 0.1
    assert all(found.values())


def test_no_paths_and_fit_for_json():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    for place in (pathlib.Path.home(), pathlib.Path.cwd(), pathlib.Path(platform.__file__).parent):
        assert not any(str(place) in value for value in found.values())

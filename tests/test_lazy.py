"""Modules that are imported when they are first asked for."""

import sys

import pytest

from diffjax import lazy


@pytest.fixture
def marked(tmp_path, monkeypatch):
    """A folder with the module `late_module`, which leaves a trace when its code runs."""
    ran = tmp_path / "ran"
    (tmp_path / "late_module.py").write_text(
        f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nvalue = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield ran
    sys.modules.pop("late_module", None)


def test_a_modules_code_runs_when_an_attribute_is_read(marked):
    late = lazy.module("late_module")
    assert not marked.exists()
    assert late.value == 3
    assert marked.exists()
    assert lazy.module("late_module") is late


def test_a_module_that_is_not_there():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        lazy.module("no_such_module")

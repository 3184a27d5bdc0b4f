"""Copies and members through the command line."""

import json

import pytest
from PIL import Image
from programs import program


@pytest.fixture(scope="module")
def audited(trained):
    """The lines of both tasks."""
    told = {}
    for task, flags in {"copies": ("--steps=3",), "members": ("--draws=2",)}.items():
        done = program("audit", f"--task={task}", f"--run={trained}", "--num=200", *flags)
        assert done.returncode == 0, done.stderr
        told[task] = done.stdout
    return told


def test_a_run_of_six_steps_has_memorised_nothing(trained, audited):
    assert "200 images beside 4500 that were trained on: 0 are copies" in audited["copies"]
    found = json.loads((trained / "audit.json").read_text())
    assert found["copies"]["copies"] == 0
    assert found["copies"]["threshold"] <= 0.5
    with Image.open(trained / "nearest.png") as sheet:
        assert sheet.width > 2 * sheet.height, "ten columns of two"


def test_its_members_are_at_chance(trained, audited):
    head, loss, secmi, _ = audited["members"].splitlines()
    assert head.split()[:2] == ["attack", "AUC"]
    assert [line.split()[0] for line in (loss, secmi)] == ["loss", "SecMI"]
    found = json.loads((trained / "audit.json").read_text())["members"]
    for name in ("loss", "SecMI"):
        auc, low, high = found[name]["auc"]
        assert low < auc < high
        assert 0.4 < auc < 0.6
        assert found[name]["caught"][0] < 0.06


def test_what_does_nothing_is_refused(trained):
    done = program("audit", "--task=copies", f"--run={trained}", "--draws=3")
    assert done.returncode == 1
    assert "--draws does nothing without --task=members" in done.stderr

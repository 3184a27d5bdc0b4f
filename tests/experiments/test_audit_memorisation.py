"""Copies and members through the command line."""

import json

import pytest
from PIL import Image
from programs import program

from experiments.audits import statuses


@pytest.fixture(scope="module")
def audited(trained):
    """The lines of both tasks."""
    told = {}
    for task, flags in {"copies": ("--steps=3",), "members": ("--draws=2",)}.items():
        done = program("audit", f"--task={task}", f"--run={trained}", "--num=200", *flags)
        assert done.returncode == 0, done.stderr
        told[task] = done.stdout
    return told


@pytest.mark.slow
def test_a_run_of_six_steps_has_memorised_nothing(trained, audited):
    assert "200 images beside 4500 that were trained on: 0 are copies" in audited["copies"]
    found = json.loads((trained / "audit.json").read_text())
    assert found["copies"]["copies"] == 0
    assert found["copies"]["threshold"] <= 0.5
    with Image.open(trained / "nearest.png") as sheet:
        assert sheet.width > 2 * sheet.height, "ten columns of two"


@pytest.mark.slow
def test_a_judge_s_features_stand_for_images(trained, judge, audited):
    pixels = json.loads((trained / "audit.json").read_text())["copies"]
    flags = (f"--run={trained}", f"--judge={judge}", "--num=20", "--steps=2")
    done = program("audit", "--task=copies", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads((trained / "audit.json").read_text())["copies"]
    assert (pixels["judge"], found["judge"]) == (None, str(judge))
    assert found["threshold"] != pixels["threshold"]


@pytest.mark.slow
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


def test_what_is_found_is_the_status():
    assert statuses.of_copies({"copies": 0, "num": 9}) == 0
    assert statuses.of_copies({"copies": 1, "num": 9}) == 3
    chance, told = {"auc": [0.52, 0.49, 0.55]}, {"auc": [0.56, 0.51, 0.6]}
    assert statuses.of_members({"num": 9, "loss": chance, "SecMI": chance}) == 0
    assert statuses.of_members({"num": 9, "loss": chance, "SecMI": told}) == 3


def test_what_does_nothing_is_refused(trained):
    done = program("audit", "--task=copies", f"--run={trained}", "--draws=3")
    assert done.returncode == 1
    assert "--draws does nothing without --task=members" in done.stderr

"""Runs exported from the command line."""

import json

from programs import check_refused, program


def test_a_run_is_exported_once(trained, tmp_path):
    out = tmp_path / "out"
    done = program("export", f"--run={trained}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"a DDPMPipeline of step 6 in {out}"
    assert second.startswith("its model card is not complete; it lacks the licence of the weights")
    card = (out / "README.md").read_text()
    assert "## Missing" in card
    assert "--steps=6" in card
    assert str(trained) not in card
    assert json.loads((out / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"
    flags = (f"--run={trained}", f"--out={out}")
    check_refused(f"{out} exists: choose another folder", "export", *flags)


def test_refused(judge, tmp_path):
    out = f"--out={tmp_path / 'out'}"
    check_refused("is a classifier run, where a diffusion or", "export", f"--run={judge}", out)
    check_refused("is no run folder", "export", f"--run={tmp_path}", out)
    assert list(tmp_path.iterdir()) == []

"""A model card says what a run's files say, and is complete where nothing is missing."""

import json

import pytest

from diffjax.errors import UserError
from diffjax.trust.model_card import LACKS, Told, model_card

CONFIG = {"task": "diffusion", "training": {"dataset": "embedded"}}
ALL = Told("mit", "mit", 100.0, "--steps=3000\n")
EVALUATION = {
    "samples": {"frechet": 21.2, "recall": 0.699,
                "intervals": {"frechet": [14.7, 27.7], "recall": [0.651, 0.747]}},
    "real": {"frechet": 5.8, "recall": 0.88},
    "num": 1000, "step": 3000, "sampler": "ddim(eta=1.0)", "steps": 25,
    "extractor": {"name": "judge", "checksum": "8132092bff"},
}  # fmt: skip
AUDIT = {
    "copies": {"copies": 2, "num": 1000, "step": 3000},
    "members": {"num": 500, "step": 3000, "loss": {"auc": [0.51, 0.47, 0.55],
                "caught": [0.012, 0.002, 0.024], "false": 0.01}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "garments"
    folder.mkdir()
    (folder / "environment.json").write_text(json.dumps({"cpu": "C", "devices": "2 × cpu"}))
    lines = [{"step": 1800, "steps_per_s": 1.0}, {"step": 3600, "steps_per_s": 1.0}]
    (folder / "speed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_complete_card(run):
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))
    (run / "audit.json").write_text(json.dumps(AUDIT))
    card = model_card(run, CONFIG, ALL)
    assert card.lacks == ()
    assert "Missing" not in card.text
    head, _, body = card.text.removeprefix("---\n").partition("---\n")
    assert "license: mit" in head.splitlines()
    assert "library_name: diffusers" in head.splitlines()
    assert "# garments" in body
    assert "| Fréchet distance | 21.200 | 14.700 to 27.700 | 5.800 |" in body
    assert "2 of 1,000 samples" in body
    assert "AUC 0.510 (0.470 to 0.550); 1.2% of members at 1% of others" in body
    assert "1.00 h" in body
    assert "0.100 kWh, if the machine draws 100 W" in body
    assert "--steps=3000" in body


def test_what_is_missing_is_named(run):
    card = model_card(run, CONFIG, Told())
    assert card.lacks == tuple(LACKS)
    assert "## Missing" in card.text
    for each in LACKS.values():
        assert f"- {each}" in card.text.splitlines(), each
    assert "license:" not in card.text.partition("library_name")[0]
    assert "the machine's power is unknown" in card.text


@pytest.mark.parametrize("name", ["evaluation.json", "audit.json"])
def test_files_that_cannot_be_read(run, name):
    (run / name).write_text("{")
    with pytest.raises(UserError, match=name):
        model_card(run, CONFIG, ALL)


def test_steps_that_a_resume_has_taken_again_count_once(run):
    with (run / "speed.jsonl").open("a") as file:
        file.write('{"step": 3600, "steps_per_s": 0.5}\n{"step": 36')
    assert "1.50 h" in model_card(run, CONFIG, ALL).text


def test_places_of_the_data_are_not_told(run):
    config = {**CONFIG, "training": {"dataset": "folder(path='/home/ann/pictures')"}}
    text = model_card(run, config, ALL).text
    assert "`folder`" in text
    assert "/home/ann" not in text

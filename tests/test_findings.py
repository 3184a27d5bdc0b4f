"""What a run's page says of evaluations and audits, from the files that they write."""

import json

import numpy as np
import pytest

from diffjax.display.images import save_grid
from diffjax.findings import read_findings

JUDGED = {
    "num": 1000, "step": 3000, "sampler": "ddim", "steps": 25,
    "samples": {"frechet": 16.62, "recall": 0.772,
                "intervals": {"frechet": [11.0, 22.0], "recall": [0.73, 0.81]}},
    "real": {"frechet": 6.15, "recall": 0.88},
    "averages": {"rows": [{"length": None, "frechet": 9.0}, {"length": 0.1, "frechet": 8.0}]},
    "guidance": {"rows": [{"scale": 0.0, "frechet": 7.0}, {"scale": 1.0, "frechet": 8.0}]},
    "bias": {"p_values": [[0.01, 0.5], [1.0, 1.0]], "scales": [1.0, 3.0], "attributes": {
        "names": ["brightness"], "real": [0.25], "drawn": [[0.3], [0.5]],
        "p_values": [[0.2], [0.004]]}},
}  # fmt: skip
AUDIT = {
    "copies": {"step": 3000, "copies": 2, "num": 200, "threshold": 0.2981},
    "members": {"step": 3000, "num": 500, "others": 400, "loss": {"auc": [0.52, 0.48, 0.56],
                                                   "caught": [0.01, 0.0, 0.02]}},
    "robustness": {"watermark": "TreeRing", "rows": [
        {"change": "blur", "auc": 0.9, "found": 0.75, "false": 0.0, "bits": None}],
        "held_out": {"num": 1000, "uniform": 0.25, "false": 0.002}},
}  # fmt: skip


def write(folder, name, values):
    (folder / name).write_text(json.dumps(values))


def test_what_the_files_say(tmp_path):
    write(tmp_path, "evaluation.json", JUDGED)
    write(tmp_path, "audit.json", AUDIT)
    save_grid(tmp_path / "nearest.png", np.zeros((2, 4, 4, 1), np.uint8))
    found = {finding.title: finding for finding in read_findings(tmp_path)}
    assert found["what a judge sees"].facts["frechet"] == "16.6 (11 to 22), real 6.15"
    assert not {"noise", "guided away from"} & set(found["what a judge sees"].facts)
    marked = {**JUDGED, "watermarked": True, "weak": "runs/a", "guidance_scale": 1.5}
    write(tmp_path, "evaluation.json", marked)
    (judged,) = (f for f in read_findings(tmp_path) if f.title == "what a judge sees")
    assert judged.facts["noise"] == "with a watermark"
    assert judged.facts["guided away from"] == "runs/a, at a scale of 1.5"
    assert found["classes and attributes, drawn and of the data"].facts == {
        "frequencies that differ (p below 0.05)": "1 of 4",
        "brightness": "0.300 at guidance 1 (p = 0.2), 0.500 at guidance 3 (p = 0.004), real 0.250",
    }
    lengths = found["length of the weights' average"].facts
    assert lengths["nearest to real images at length"] == "0.1"
    assert found["guidance"].facts["nearest to real images at scale"] == "0"
    assert found["memorised images"].facts["copies of training images"] == "2 of 200 samples"
    assert found["memorised images"].png == (tmp_path / "nearest.png").read_bytes()
    assert found["membership"].facts["area under the curve by loss"] == "0.520 (0.480 to 0.560)"
    assert found["membership"].facts["members and others"] == "500 and 400"
    assert found["watermark"].facts["blur"] == "found 0.75, AUC 0.900"
    assert found["watermark"].facts["held-out images"] == "found 0.0020 of 1,000; p uniform: 0.25"
    assert found["watermark"].png is None


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"copies": 3}', '{"copies": {"copies": 1}}'])
def test_what_cannot_be_read_is_left_out(text, tmp_path):
    for name in ("evaluation.json", "audit.json"):
        (tmp_path / name).write_text(text)
    assert read_findings(tmp_path) == []
    assert read_findings(tmp_path / "nowhere") == []

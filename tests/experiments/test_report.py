"""The run report, from the command line to a reader's browser."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from browser import act
from PIL import Image, ImageSequence
from programs import program

# Moves a slider to each of its stops; what label and picture are then on view.
MOVE = """
const seen = {};
for (const id of ["samples", "reverse"]) {
  const reel = document.getElementById(id), slider = reel.querySelector("input");
  seen[id] = [];
  for (let i = Number(slider.max); i >= 0; i--) {
    slider.value = i;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    const shown = [...reel.querySelectorAll("img")].filter(image => image.checkVisibility());
    seen[id].push({
      label: reel.querySelector("output").value, spoken: slider.getAttribute("aria-valuetext"),
      pictures: shown.map(image => image.src), wide: shown.map(image => image.clientWidth),
    });
  }
  seen[id].reverse();
}
return seen;
"""
PLAY = """
const reel = document.getElementById("reverse"), label = reel.querySelector("output");
const labels = [label.value];
new MutationObserver(() => labels.push(label.value)).observe(label, { childList: true });
reel.querySelector(".play").click();
await sleep(3000);
return { labels, playing: reel.classList.contains("playing") };
"""
# Puts the mouse over each step of each chart; the labels that come up.
HOVER = """
const seen = {};
for (const chart of document.querySelectorAll(".chart")) {
  const plot = chart.querySelector(".plot"), area = plot.querySelector(".nsewdrag");
  const box = area.getBoundingClientRect(), name = chart.querySelector("h3").textContent;
  seen[name] = [];
  for (const step of STEPS) {
    const x = plot._fullLayout.xaxis.d2p(step);  // either end lies on the edge: step inside
    const clientX = box.left + Math.min(Math.max(x, 2), box.width - 2), clientY = box.top + 20;
    let labels = [];
    for (let tries = 0; tries < 10 && labels.length < 2; tries++) {  // it may not be drawn yet
      area.dispatchEvent(new MouseEvent("mousemove", { clientX, clientY, bubbles: true }));
      await sleep(300);
      labels = [...plot.querySelectorAll(".hoverlayer text")].map(text => text.textContent);
    }
    seen[name].push(labels);
  }
}
return seen;
"""


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A copy of the finished run, with the report that the program writes."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    shutil.copytree(trained, folder)
    (folder / "report.html").unlink(missing_ok=True)
    done = program("report", f"--run={folder}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{folder}/report.html"]
    return folder


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def png_bytes(url):
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(data)


def test_sliders_show_the_picture_that_they_name(run, tmp_path):
    seen = act(run / "report.html", MOVE, tmp_path)
    grids = sorted((run / "samples").glob("step_*.png"))
    assert len(grids) > 1
    assert [s["label"] for s in seen["samples"]] == [f"step {int(p.stem[5:]):,}" for p in grids]
    assert [list(map(png_bytes, s["pictures"])) for s in seen["samples"]] == [
        [path.read_bytes()] for path in grids
    ]
    with Image.open(run / "reverse.gif") as film:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert len(seen["reverse"]) == len(frames) > 1
    for i, (stop, frame) in enumerate(zip(seen["reverse"], frames, strict=True), 1):
        assert stop["label"] == f"frame {i} of {len(frames)}"
        (picture,) = stop["pictures"]
        shown = Image.open(io.BytesIO(png_bytes(picture))).convert("RGB")
        np.testing.assert_array_equal(np.asarray(shown), frame)
    for stop in (*seen["samples"], *seen["reverse"]):
        assert stop["spoken"] == stop["label"]
        assert stop["wide"][0] > 200


def test_play_goes_through_the_reverse_process_once(run, tmp_path):
    seen = act(run / "report.html", PLAY, tmp_path)
    count = int(seen["labels"][0].rpartition(" ")[2])
    shown = [f"frame {i} of {count}" for i in range(1, count + 1)]
    assert seen == {"labels": [shown[-1], *shown], "playing": False}


def test_curves_say_what_the_metrics_say(run, tmp_path):
    lines = metrics(run)
    steps = [line["step"] for line in lines]
    seen = act(run / "report.html", f"const STEPS = {steps}; {HOVER}", tmp_path)
    for title, name in (("loss", "loss"), ("gradient norm", "grad_norm")):
        assert len(seen[title]) == len(lines) > 1
        for labels, line in zip(seen[title], lines, strict=True):
            step, value = sorted(labels, key=lambda label: "step" not in label)
            assert step == f"step {line['step']}"
            assert float(value) == pytest.approx(line[name], rel=1e-4)


def refused(done, message):
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_no_run(tmp_path):
    refused(program("report", f"--run={tmp_path}"), f"{tmp_path} is no run folder")
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    refused(program("report", f"--run={folder}"), f"cannot write {folder}/report.html")

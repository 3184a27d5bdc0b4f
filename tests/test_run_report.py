"""A run's files, whole or not, become the page that they describe."""

import json
import math

import numpy as np
import pytest

import diffjax.tasks
from diffjax import spec
from diffjax.display.images import save_film, save_grid
from diffjax.errors import UserError
from diffjax.run_report import FILMS, GRIDS_OF, curves, read_lines, read_page, spread, write_report
from diffjax.training.run import RunFolder


@pytest.fixture
def run(tmp_path):
    """A folder as the trainer makes it before the first step."""
    (tmp_path / "run" / "samples").mkdir(parents=True)
    return RunFolder(tmp_path / "run")


def write_lines(path, *entries, end=""):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + end)


def by_name(page):
    return {curve.name: dict(zip(curve.steps, curve.values, strict=True)) for curve in page.curves}


def test_half_written_and_repeated_lines(tmp_path):
    path = tmp_path / "speed.jsonl"
    entries = [{"step": s, "steps_per_s": v} for s, v in [(200, 7.0), (100, 7.1), (200, 6.0)]]
    write_lines(path, *entries, end='{"step": 300, "steps_per')
    assert read_lines(path) == {100: {"steps_per_s": 7.1}, 200: {"steps_per_s": 6.0}}
    assert list(read_lines(path)) == [100, 200]


def test_lines_that_are_no_metrics_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('12\n\n{"loss": 1}\n{"step": 1, "loss": NaN, "note": "x", "ok": true}\nnull\n')
    assert list(read_lines(path)) == [1]
    assert list(read_lines(path)[1]) == ["loss"]
    assert math.isnan(read_lines(path)[1]["loss"])
    assert read_lines(tmp_path / "none.jsonl") == {}


def test_a_curve_for_every_metric_loss_first():
    lines = {1: {"top_5": 0.5, "loss": 2.0}, 2: {"loss": 1.0, "accuracy": 0.1}}
    found = [(c.name, c.steps, c.values) for c in curves(lines)]
    assert found == [("loss", [1, 2], [2.0, 1.0]), ("top 5", [1], [0.5]), ("accuracy", [2], [0.1])]


def test_spread_keeps_both_ends_and_even_gaps():
    assert spread([30, 10, 20], most=3) == [10, 20, 30]
    chosen = spread(range(1000, 201_000, 1000), most=40)
    assert len(set(chosen)) == 40
    assert (chosen[0], chosen[-1]) == (1000, 200_000)
    assert set(np.diff(chosen)) == {5000, 6000}


def test_what_the_page_says_of_a_run(run):
    (run.path / "flags.txt").write_text("# header\n--dataset=embedded\n--steps=4000\n")
    (run.path / "config.json").write_text('{"task": "diffusion"}')
    (run.path / "environment.json").write_text('{"jax": "0.10.2", "cores": 2}')
    losses = {100: 0.5, 1200: 0.25}
    metrics = [{"step": s, "loss": v, "skipped": 1} for s, v in losses.items()]
    write_lines(run.path / "metrics.jsonl", *metrics)
    write_lines(run.path / "speed.jsonl", {"step": 1200, "steps_per_s": 7.25, "images_per_s": 116})
    page = read_page(run)
    assert page.title == "run"
    assert page.subtitle.startswith("diffusion, refreshed 20")
    assert page.facts == {
        "steps done": "1,200 of 4,000",
        "latest loss": "0.25",
        "steps per second": "7.25",
        "skipped updates": "2",
    }
    assert by_name(page) == {
        "loss": losses,
        "skipped updates": {100: 1, 1200: 1},
        "steps per second": {1200: 7.25},
        "images per second": {1200: 116},
    }
    assert page.environment == {"jax": "0.10.2", "cores": "2"}


def test_pictures_are_those_of_the_run(run):
    film = np.random.default_rng(0).integers(0, 255, (5, 4, 28, 28, 1), np.uint8)
    for step in range(1, 51):
        save_grid(run.samples / f"step_{step:08d}.png", film[step % 5])
    (run.samples / "step_best.png").write_bytes(b"another's")
    save_film(run.film, film)
    page = read_page(run)
    assert len(page.grids) == 40
    assert page.grids[-1].label == "step 50"
    for picture in page.grids:
        step = int(picture.label.removeprefix("step "))
        assert picture.png == (run.samples / f"step_{step:08d}.png").read_bytes()
    assert [picture.label for picture in page.film] == [f"frame {i} of 5" for i in range(1, 6)]
    assert page.facts == {"steps done": "50"}


def test_an_autoencoder_shows_its_plane_and_calls_no_decoded_image_a_sample(run):
    (run.path / "config.json").write_text('{"task": "autoencoder"}')
    save_grid(run.plane, np.zeros((4, 2, 2, 1), np.uint8))
    page = read_page(run)
    assert [picture.png for picture in page.film] == [run.plane.read_bytes()]
    assert page.film_title == "plane of two latents"
    assert "decoded" in page.grids_title


def test_titles_are_of_kinds_of_run():
    """A name that is no task's would never be looked up."""
    assert {*GRIDS_OF, *FILMS} <= {*spec.names(diffjax.tasks)}


def test_run_that_has_nothing_yet(run):
    assert write_report(run) == run.path / "report.html"
    page = read_page(run)
    assert page.facts == {"steps done": "0"}
    assert not any((page.curves, page.grids, page.film, page.flags, page.environment))


def test_damaged_film_is_named_in_one_line(run):
    run.film.write_bytes(b"GIF89a, not")
    with pytest.raises(UserError, match=r"reverse\.gif") as caught:
        write_report(run)
    assert "\n" not in str(caught.value)


def test_unwritable_report_leaves_one_line(run):
    (run.path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*report\.html"):
        write_report(run)

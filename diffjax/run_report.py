"""A run's folder -> report.html, the page that shows how far it has come."""

import datetime
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import diffjax.conditions
from diffjax import spec
from diffjax.display.images import read_film
from diffjax.display.page import Curve, Page, Picture, save_page
from diffjax.errors import UserError, listed
from diffjax.findings import read_findings, read_object
from diffjax.training.journal import HELD_OUT
from diffjax.training.run import RunFolder

Lines = dict[int, dict[str, float]]  # step -> what was measured, by name
GRIDS = 40  # more pictures than this make the page heavy and its slider no better
FILMS = {
    "gan": "from one latent to the next",
    "contrastive": "similarity of images (rows) and texts (columns), 16 pairs learnt, 8 held out",
    "autoencoder": "plane of two latents",
}  # what else a film shows than the reverse process
GRIDS_OF = {
    "autoencoder": "held-out images, decoded from their latents, from N(0, I)",
    "contrastive": "similarity of images (rows) and texts (columns)",
    "restoration": "noisy images, held-out images, restored images",
    "segmentation": "held-out images, true classes, predicted classes",
    "upscaling": "smaller images, bicubic enlargements, drawn, held out",
}  # what the pictures of other runs are than samples
NAMES = {
    "grad_norm": "gradient norm",
    "steps_per_s": "steps per second",
    "images_per_s": "images per second",
    "skipped": "skipped updates",
}


def write_report(run: RunFolder) -> pathlib.Path:
    """Writes the run's report.html, of whatever the run has by now, and returns its path.

    Raises UserError where it cannot be written, or a picture cannot be read.
    """
    page = read_page(run)
    path = run.report
    try:
        save_page(path, page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def read_page(run: RunFolder) -> Page:
    """What the run's files say. Raises UserError where a picture cannot be read."""
    metrics = read_lines(run.path / "metrics.jsonl")
    speed = read_lines(run.path / "speed.jsonl")
    held_out = read_lines(run.path / HELD_OUT)
    pictures = run.pictures()
    flags = _text(run.path / "flags.txt")
    config = read_object(run.path / "config.json")
    task = str(config.get("task", "run"))
    now = datetime.datetime.now().astimezone()
    try:
        grids = [
            Picture(f"step {step:,}", pictures[step].read_bytes()) for step in spread(pictures)
        ]
        film = _film(run)
    except OSError as error:
        raise UserError(f"a picture of {run.path} cannot be read: {error}") from error
    return Page(
        title=run.path.resolve().name,
        subtitle=f"{task}, refreshed {now:%Y-%m-%d %H:%M %Z}",
        facts=_facts(metrics, speed, max([*metrics, *pictures], default=0), flags)
        | _classes(config),
        grids=grids,
        grids_title=GRIDS_OF.get(task, Page.grids_title),
        film=film,
        film_title=FILMS.get(task, Page.film_title),
        findings=read_findings(run.path),
        curves=[*curves(metrics), *curves(held_out), *curves(speed)],
        flags=flags,
        environment={name: str(v) for name, v in read_object(run.environment).items()},
    )


def read_lines(path: pathlib.Path) -> Lines:
    """The numbers of each step of a file of JSON lines, steps ascending.

    A step written again, after a resume, counts as last written; a line that a dead process left
    half written is passed over, and a missing file has no lines.
    """
    found: Lines = {}
    for line in _text(path).splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and type(entry.get("step")) is int:
            step = entry.pop("step")
            found[step] = {k: float(v) for k, v in entry.items() if type(v) in (int, float)}
    return dict(sorted(found.items()))


def curves(lines: Lines) -> list[Curve]:
    """A curve for each name in the lines: the loss first, the others as they come."""
    names = dict.fromkeys(name for entry in lines.values() for name in entry)
    found = []
    for name in sorted(names, key=lambda name: name != "loss"):
        points = {step: entry[name] for step, entry in lines.items() if name in entry}
        title = NAMES.get(name, name.replace("_", " "))
        found.append(Curve(title, list(points), list(points.values())))
    return found


def spread(steps: Iterable[int], most: int = GRIDS) -> list[int]:
    """At most `most` of the steps, evenly spaced among them, the first and the last always."""
    steps = sorted(steps)
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _film(run: RunFolder) -> list[Picture]:
    """The film's frames, or the one picture of a plane of latents."""
    if run.plane.is_file():
        return [Picture("", run.plane.read_bytes())]
    frames = read_film(run.film) if run.film.is_file() else []
    return [Picture(f"frame {i} of {len(frames)}", png) for i, png in enumerate(frames, 1)]


def _facts(metrics: Lines, speed: Lines, step: int, flags: str) -> dict[str, str]:
    """What stands at the head of the page, as far as it is known."""
    planned = re.search(r"^--steps=(\d+)$", flags, re.MULTILINE)
    facts = {"steps done": f"{step:,}" + (f" of {int(planned[1]):,}" if planned else "")}
    losses = [entry["loss"] for entry in metrics.values() if "loss" in entry]
    speeds = [entry["steps_per_s"] for entry in speed.values() if "steps_per_s" in entry]
    skipped = [entry["skipped"] for entry in metrics.values() if "skipped" in entry]
    if losses:
        facts["latest loss"] = f"{losses[-1]:.4g}"
    if speeds:
        facts["steps per second"] = f"{speeds[-1]:.3g}"
    if skipped:
        facts["skipped updates"] = f"{sum(skipped):,g}"
    return facts


def _classes(config: dict[str, Any]) -> dict[str, str]:
    """The classes that the run's network is told of, where they have names."""
    task = config.get("config")
    told = task.get("condition") if isinstance(task, dict) else None
    try:
        names = spec.build(str(told or "none"), diffjax.conditions).names
    except UserError:  # of another version
        return {}
    return {"classes": listed(names)} if names else {}


def _text(path: pathlib.Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""

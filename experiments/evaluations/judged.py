"""What a judge sees in a run's images, beside what it sees in real ones."""

import pathlib
from collections.abc import Sequence
from typing import Any

from diffjax.runs import Run
from diffjax.tasks.denoisers import DenoiserTask
from experiments.evaluations import drawn
from experiments.evaluations.saved import save

TITLES = {
    "frechet": "Fréchet distance",
    "frechet_bias": "  of it what the counts add",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "checkerboard": "checkerboard energy",
}


def judge_samples(run: Run[DenoiserTask], path: pathlib.Path) -> None:
    """Draws, looks, saves and prints."""
    scale = drawn.one_scale()
    drawing = drawn.Drawing(run, guided=scale != 1)
    bench = drawn.set_up(run)
    seen = bench.see(drawing(bench.num, scale), drawing.labels(bench.num))
    found = {**bench.about(run), "guidance_scale": scale, **bench.compare(seen)}
    saved = save(path, found)
    samples, real = found["samples"], found["real"]
    names = bench.records.class_names or [str(i) for i in range(len(real["class_shares"]))]
    for title, drawn_column, interval, real_column in table(samples, real, names):
        print(f"{title:<30}{drawn_column:>10}{interval:>20}{real_column:>10}")
    extractor = found["extractor"]
    print(
        f"{bench.num} images of step {run.step}, features of {extractor['name']} "
        f"{extractor['checksum'][:8]} (resized: {extractor['resize']}), {saved}"
    )


def table(
    samples: dict[str, Any], real: dict[str, Any], names: Sequence[str]
) -> list[tuple[str, str, str, str]]:
    """Title, samples' column, its interval, and real images', row by row."""

    def row(title: str, key: str) -> tuple[str, str, str, str]:
        ends = samples["intervals"].get(key)
        interval = "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
        return title, _number(samples[key]), interval, _number(real[key])

    rows = [
        ("", "samples", "95% of draws", "real"),
        row("judge's confidence", "confidence"),
        row("judge agrees with label", "agreement"),
        *(row(title, key) for key, title in TITLES.items() if key in samples),
    ]
    if real.get("frechet"):
        ratio = _number(samples["frechet"] / real["frechet"])
        rows.insert(5, ("  over that of real images", ratio, "", _number(1.0)))
    shares = zip(names, samples["class_shares"], real["class_shares"], strict=True)
    rows += [(f"share of {name}", _number(own), "", _number(other)) for name, own, other in shares]
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

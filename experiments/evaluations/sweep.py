"""What each scale of classifier-free guidance buys, and what it costs."""

import pathlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import tqdm
from jaxtyping import UInt8
from matplotlib.figure import Figure

from diffjax.display.images import grid
from diffjax.files import write_whole
from diffjax.runs import Run
from diffjax.tasks.denoisers import DenoiserTask
from experiments.evaluations import drawn
from experiments.evaluations.saved import save

SCALES = [-2.0, -1.0, 0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0]
COLUMNS_SHOWN = 10  # of a run without classes
# As far as --figures has them; the kernel distance stands in for a Fréchet distance left out.
COLUMNS = {
    "agreement": "judge sees the class",
    "confidence": "judge's confidence",
    "frechet": "Fréchet distance",
    "kernel": "kernel distance",
    "precision": "precision",
    "recall": "recall",
}


def sweep(run: Run[DenoiserTask], path: pathlib.Path) -> None:
    """Draws the same noise at each scale of --guidance, looks, saves, prints and plots."""
    values = drawn.scales(SCALES)
    drawing = drawn.Drawing(run, guided=True)
    bench = drawn.set_up(run)
    labels = drawing.labels(bench.num)
    rows, first, real = [], [], {}
    for scale in tqdm.tqdm(values, "scales", file=sys.stderr, disable=None, leave=False):
        images = drawing(bench.num, scale)
        found = bench.compare(bench.see(images, labels))
        rows.append({"scale": scale, **found.pop("samples")})
        real = found.pop("real")
        first.append(images[: run.task.condition.classes or COLUMNS_SHOWN])
    saved = save(path, {"guidance": {**bench.about(run), **found, "rows": rows, "real": real}})
    names = bench.records.class_names or tuple(map(str, range(len(first[0]))))
    classes = names[: len(first[0])]
    pictures = {
        "guidance_images.png": sheet(first, values, classes),
        "guidance.png": plot(rows, real),
    }
    print(table(rows, real))
    for name, figure in pictures.items():
        write_whole(path.with_name(name), partial(figure.savefig, format="png"))
    print(f"{bench.num} images of step {run.step} a scale, {saved}; see {', '.join(pictures)}")


def table(rows: list[dict[str, Any]], real: dict[str, Any]) -> str:
    """A scale a line, real images last."""
    columns = known(rows)
    lines = [
        f"{'scale':>6}{'w':>6}" + "".join(f"{title:>22}" for title in columns.values())
        + f"{'least share':>13}"
    ]  # fmt: skip
    for row in [*rows, {"scale": None, **real}]:
        scale = row["scale"]
        name = f"{'real':>12}" if scale is None else f"{scale:>6g}{scale - 1:>6g}"
        numbers = "".join(f"{row[column]:>22.3f}" for column in columns)
        lines.append(f"{name}{numbers}{min(row['class_shares']):>13.3f}")
    told = []
    if "agreement" in columns:
        surest = max(rows, key=lambda row: row["agreement"])
        told.append(f"most often of their class at {surest['scale']:g}")
        if "recall" in real:
            own, other = (values["recall"] for values in (surest, real))
            told[0] += f", with a recall of {own:.3f} (real images {other:.3f})"
    distance = next((name for name in ("frechet", "kernel") if name in real), None)
    if distance:
        nearest = min(rows, key=lambda row: row[distance])
        told.append(f"nearest to real images at {nearest['scale']:g}")
    return "\n".join([*lines, "; ".join(told)])


def known(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Of COLUMNS those that were measured: without classes no image has one to agree with."""
    return {name: title for name, title in COLUMNS.items() if rows[0].get(name) is not None}


def sheet(
    images: list[UInt8[np.ndarray, "K H W C"]], scales: list[float], classes: Sequence[str]
) -> Figure:
    """A row a scale, a column a class, the same noise in each column."""
    picture = np.asarray(grid(np.concatenate(images), len(classes)))
    height, width = picture.shape[:2]
    figure = Figure(figsize=(width / 80 + 1, height / 80 + 1), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, cmap="grey", vmin=0, vmax=255)
    axes.set_xticks((np.arange(len(classes)) + 0.5) * width / len(classes), classes, rotation=30)
    axes.set_yticks(
        (np.arange(len(scales)) + 0.5) * height / len(scales), map("{:g}".format, scales)
    )
    axes.set_ylabel("guidance (1 is off)")
    axes.tick_params(length=0)
    return figure


def plot(rows: list[dict[str, Any]], real: dict[str, Any]) -> Figure:
    """A panel a figure, against the scale; real images as a grey line."""
    left_out = {"confidence", "kernel" if "frechet" in real else "frechet"}
    panels = {name: title for name, title in known(rows).items() if name not in left_out}
    figure = Figure(figsize=(2.75 * len(panels), 3.2), dpi=120, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, title) in zip(grid, panels.items(), strict=True):
        axes.plot([row["scale"] for row in rows], [row[name] for row in rows], "o-", ms=4)
        axes.axhline(real[name], color="grey", lw=1)
        axes.axvline(1, color="grey", lw=1, ls=":")
        axes.set(title=title, xlabel="guidance", yscale="log" if name == "frechet" else "linear")
        axes.grid(alpha=0.3)
    return figure

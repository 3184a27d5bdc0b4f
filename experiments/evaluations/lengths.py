"""What each length of the weights' average buys, of a run that was trained with --averages."""

import pathlib
import sys
from functools import partial
from typing import Any

import tqdm
from absl import flags
from matplotlib.figure import Figure

from diffjax.errors import UserError
from diffjax.files import write_whole
from diffjax.runs import Run
from diffjax.tasks.denoisers import DenoiserTask
from diffjax.training.averages import exponent_of
from experiments.evaluations import drawn
from experiments.evaluations.saved import save

LENGTHS = flags.DEFINE_list(
    "lengths", ["0.02", "0.03", "0.05", "0.075", "0.1", "0.15", "0.2"],
    "of averages, as shares of the training: their profiles' standard deviations",
)  # fmt: skip
OWN = (LENGTHS,)
COLUMNS = {"frechet": "Fréchet distance", "precision": "precision", "recall": "recall"}


def sweep_lengths(run: Run[DenoiserTask], path: pathlib.Path) -> None:
    """Draws the same noise with each average, and with the run's own; saves, prints and plots."""
    scale = drawn.one_scale()
    # The run as it is under None; refused before anything is drawn.
    averaged: dict[float | None, Run[DenoiserTask]] = {None: run}
    averaged |= {value: run.averaged(value) for value in lengths()}
    bench, rows, real = drawn.set_up(run), [], {}
    for value in tqdm.tqdm(averaged, "lengths", file=sys.stderr, disable=None, leave=False):
        drawing = drawn.Drawing(averaged[value], guided=scale != 1)
        images = drawing(bench.num, scale)
        found = bench.compare(bench.see(images, drawing.labels(bench.num)))
        rows.append({"length": value, **found.pop("samples")})
        real = found.pop("real")
    saved = save(path, {"averages": {**bench.about(run), **found, "rows": rows, "real": real}})
    print(table(rows, real))
    figure = plot(rows, real)
    write_whole(path.with_name("averages.png"), partial(figure.savefig, format="png"))
    print(f"{bench.num} images of step {run.step} a length, {saved}; see averages.png")


def lengths() -> list[float]:
    """The numbers of --lengths. Raises UserError for what is none."""
    try:
        values = [float(text) for text in LENGTHS.value]
    except ValueError:
        values = []
    if not values:
        raise UserError(f"--lengths={','.join(LENGTHS.value)}: give numbers with commas between")
    for value in values:
        exponent_of(value)
    return values


def table(rows: list[dict[str, Any]], real: dict[str, Any]) -> str:
    """A length a line, the run's own average first and real images last."""
    columns = {name: title for name, title in COLUMNS.items() if name in real}
    lines = [f"{'length':>10}" + "".join(f"{title:>20}" for title in columns.values())]
    for row in [*rows, {"length": "real", **real}]:
        name = "ema_decay" if row["length"] is None else row["length"]
        lines.append(f"{name:>10}" + "".join(f"{row[column]:>20.3f}" for column in columns))
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], real: dict[str, Any]) -> Figure:
    """A panel a figure, against the length; the run's own average dotted, real images grey."""
    columns = {name: title for name, title in COLUMNS.items() if name in real}
    figure = Figure(figsize=(3.4 * len(columns), 3.2), dpi=120, layout="constrained")
    own, *made = rows
    for axes, (name, title) in zip(
        figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True
    ):
        axes.plot([row["length"] for row in made], [row[name] for row in made], "o-", ms=4)
        axes.axhline(own[name], color="C0", lw=1, ls=":")
        axes.axhline(real[name], color="grey", lw=1)
        axes.set(title=title, xlabel="length of the average", xscale="log")
        axes.grid(alpha=0.3)
    return figure

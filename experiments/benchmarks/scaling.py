"""How the time and the memory of a train step grow with batch, image size and width.

python -m experiments.benchmark scaling --over=batch --batch=1 --batch=4 --batch=16

Each is fitted by a·xᵖ, a line between logarithms; p is printed with its standard error. Width is a
factor on the channels of every level.
"""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from tqdm import tqdm

from diffjax.errors import UserError
from experiments.flags import kinds
from experiments.measurements import measuring
from experiments.measurements.measuring import Fit, fit

AXES = ("batch", "size", "width")
MODEL = flags.DEFINE_string(
    "model", "greyscale", f"{', '.join(measuring.NETWORKS)} or a spec: unet(sample_size=32, ...)"
)
OVER = flags.DEFINE_multi_enum("over", list(AXES), list(AXES), "what grows; by default each")
BATCH = kinds.define_integers("batch", [1, 2, 4, 8, 16, 32], "batches", lower_bound=1)
SIZE = kinds.define_integers("size", [16, 32, 48, 64], "heights and widths", lower_bound=1)
WIDTH = kinds.define_numbers("width", [0.5, 1, 2], "factors on channels", lower_bound=0)
BATCH_SIZE = kinds.define_integer(
    "batch_size", 4, "images a step where size or width grow", lower_bound=1
)
ROUNDS = kinds.define_integer("rounds", 3, "times that all take turns", lower_bound=1)
OUT = kinds.define_path("out", "benchmark", "the folder to write")


class Point(NamedTuple):
    """A train step at one value of what grows."""

    over: str
    value: float
    seconds: float  # median of rounds
    rounds: list[float]
    bytes: int  # of arguments and temporaries
    temporary_bytes: int


def main() -> None:
    axes = list(dict.fromkeys(OVER.value))
    models = {over: {value: build(over, value) for value in values(over)} for over in axes}
    points = {over: measure(over, models[over]) for over in axes}
    fits = {over: fits_of(points[over]) for over in axes}
    rows = [
        {
            "over": over,
            "points": [point._asdict() for point in points[over]],
            **{what: found._asdict() for what, found in fits[over].items()},
        }
        for over in axes
    ]
    out = pathlib.Path(OUT.value)
    found = {"model": MODEL.value, "batch_size": BATCH_SIZE.value, "axes": rows}
    measuring.save(out, "scaling", found, plot(points, fits))
    for over in axes:
        print(table(points[over], fits[over]), end="\n\n")
    print(f"{MODEL.value}, batch {BATCH_SIZE.value} where it does not grow; in {out}")


def values(over: str) -> list[float]:
    """Those of an axis in order. Raises UserError where there are none to compare."""
    given: dict[str, Any] = {"batch": BATCH.value, "size": SIZE.value, "width": WIDTH.value}
    found = sorted(set(given[over]))
    if len(found) < 2:
        raise UserError(f"--{over}={found[0]}: give two values or more, or leave it out of --over")
    return found


def build(over: str, value: float) -> Any:
    """The model of a point. Raises UserError where the value does not fit it."""
    model = measuring.build(MODEL.value)
    measuring.image_shape(model)
    if over == "size":
        return model.clone(sample_size=value)
    if over == "batch":
        return model
    widths = [channels * value for channels in model.block_out_channels]
    if not all(width >= 1 and width.is_integer() for width in map(float, widths)):
        raise UserError(f"--width={value} makes {widths} of the channels: choose another factor")
    return model.clone(block_out_channels=tuple(map(int, widths)))


def measure(over: str, models: dict[float, Any]) -> list[Point]:
    """All points of an axis, measured in turns."""
    steps = {}
    for value, model in tqdm(models.items(), desc=f"compiling {over}", disable=None):
        batch = int(value) if over == "batch" else BATCH_SIZE.value
        steps[f"{value:g}"] = measuring.CompiledStep(model, batch)
    taken = measuring.interleaved(steps, ROUNDS.value, span=0.2)
    return [
        Point(
            over,
            value,
            statistics.median(taken[name]),
            taken[name],
            step.bytes,
            step.temporary_bytes,
        )
        for value, (name, step) in zip(models, steps.items(), strict=True)
    ]


def fits_of(points: Sequence[Point]) -> dict[str, Fit]:
    """How seconds and bytes grow."""
    x = [point.value for point in points]
    return {
        "seconds": fit(x, [point.seconds for point in points]),
        "bytes": fit(x, [point.bytes for point in points]),
    }


def table(points: Sequence[Point], fits: dict[str, Fit]) -> str:
    """The points of an axis and the exponents."""
    over = points[0].over
    lines = [f"{over:<8}{'ms':>10}{'MiB':>10}{'of it temporary':>18}"]
    for point in points:
        lines.append(
            f"{point.value:<8g}{1e3 * point.seconds:>10.2f}{point.bytes / 2**20:>10.1f}"
            f"{point.temporary_bytes / 2**20:>18.1f}"
        )
    lines.append(f"time ~ {over}^({fits['seconds']}), memory ~ {over}^({fits['bytes']})")
    return "\n".join(lines)


def plot(points: dict[str, list[Point]], fits: dict[str, dict[str, Fit]]) -> Figure:
    """Seconds above bytes, an axis a column, with the fitted lines."""
    figure = Figure(figsize=(1.5 + 3.6 * len(points), 6.4), dpi=120, layout="constrained")
    grid = figure.subplots(2, len(points), squeeze=False)
    for column, (over, own) in enumerate(points.items()):
        x = np.array([point.value for point in own])
        for row, (what, unit) in enumerate((("seconds", 1e-3), ("bytes", 2**20))):
            axes, found = grid[row, column], fits[over][what]
            axes.plot(x, [getattr(point, what) / unit for point in own], "o", color="C0")
            axes.plot(x, found.a * x**found.p / unit, color="C1", label=f"{over}^({found})")
            axes.set(xscale="log", yscale="log", xlabel=over)
            axes.set_xticks(x, [f"{value:g}" for value in x], minor=False)
            axes.set_xticks([], minor=True)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.grid(alpha=0.3, which="both")
            axes.legend(loc="upper left")
    grid[0, 0].set_ylabel("milliseconds a train step")
    grid[1, 0].set_ylabel("MiB, arguments and temporaries")
    return figure

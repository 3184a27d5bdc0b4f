"""Families side by side: table, figure of quality, diversity and speed, images and page."""

import dataclasses
import io
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from diffjax.display.environment import environment
from diffjax.display.page import Page, Picture, save_page
from diffjax.files import write_text, write_whole

SHOWN = 12  # images of a row


@dataclasses.dataclass(frozen=True)
class Cell:
    """A family's training with one seed, and a dict for each way in which it draws.

    bits: bits/dim of held-out images, mean and standard error, where the family has a bound.
    """

    title: str
    folder: str
    parameters: int
    training: dict[str, Any]
    draws: list[dict[str, Any]]
    bits: dict[str, float] | None = None


Found = Mapping[str, Sequence[Cell]]


class Row(NamedTuple):
    """One way to draw: its name, its place in the family, its cells, and the figures of each."""

    name: str
    place: int
    cells: Sequence[Cell]
    draws: list[dict[str, Any]]

    def values(self, figure: str) -> list[float]:
        """A figure of the samples, a seed each."""
        return [draw["samples"][figure] for draw in self.draws]

    def ratios(self) -> list[float]:
        """The Fréchet distance over that of real images, a seed each."""
        return [draw["samples"]["frechet"] / draw["real"]["frechet"] for draw in self.draws]

    def told(self, figure: str) -> str:
        """A figure with its spread over seeds or, of one seed, its 95% confidence interval."""
        return spread(self.values(figure), interval(self.draws[0]["samples"], figure))

    def told_ratio(self) -> str:
        """The same of `ratios`."""
        real = self.draws[0]["real"]["frechet"]
        ends = interval(self.draws[0]["samples"], "frechet")
        return spread(self.ratios(), [end / real for end in ends])

    def bits(self) -> str:
        """Bits/dim over seeds, or a dash."""
        found = [cell.bits for cell in self.cells if cell.bits is not None]
        if not found:
            return "-"
        mean, error = found[0]["mean"], found[0]["error"]
        ends = (mean - DEVIATIONS * error, mean + DEVIATIONS * error)
        return spread([bits["mean"] for bits in found], ends)

    def speed(self) -> float:
        """The median of images a second."""
        return statistics.median(draw["images_per_second"] for draw in self.draws)


def rows(found: Found) -> list[Row]:
    """A row for each way to draw, in the order of the families."""
    made = []
    for cells in found.values():
        for i, way in enumerate(cells[0].draws if cells else ()):
            count = way["steps"]
            steps = "" if count is None else f", {count} step{'s' * (count > 1)}"
            made.append(Row(cells[0].title + steps, i, cells, [cell.draws[i] for cell in cells]))
    return made


def table(found: Found) -> str:
    """A line for each way to draw, and one for real images.

    Figures are means with, of several seeds, the standard deviation and, of one, the 95% confidence
    interval.
    """
    lines = [["", "over real", *FIGURES, "bits/dim", *COSTS]]
    for row in rows(found):
        lines.append(
            [row.name, row.told_ratio(), *(row.told(name) for name in FIGURES), row.bits(),
             *costs(row)]
        )  # fmt: skip
    lines += floors(found)
    widths = [max(map(len, cells)) for cells in zip_longest(*lines, fillvalue="")]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


FIGURES = ("kernel", "precision", "recall", "coverage")
COSTS = ("images/s", "parameters", "seconds", "trained/s", "GB")
DEVIATIONS = statistics.NormalDist().inv_cdf(0.975)


def costs(row: Row) -> list[str]:
    """Images drawn a second, parameters, and the training's seconds, images a second and GB.

    Images a second of training are those of the last stage.
    """
    told = [cell.training for cell in row.cells]
    seconds, rate = (
        statistics.median(training[name] for training in told)
        for name in ("seconds", "images_per_second")
    )
    peak = max(training["peak_bytes"] for training in told)
    return [
        f"{row.speed():.3g}", f"{row.cells[0].parameters:,}", f"{seconds:.0f}", f"{rate:.3g}",
        f"{peak / 1e9:.1f}",
    ]  # fmt: skip


def floors(found: Found) -> list[list[str]]:
    """The same figures of real images beside others."""
    made = rows(found)
    if not made:
        return []
    real = made[0].draws[0]["real"]
    return [["real images", "1", *(spread([real[name]], interval(real, name)) for name in FIGURES)]]


def interval(said: Mapping[str, Any], figure: str) -> tuple[float, float]:
    """The ends of a figure's confidence interval."""
    low, high = said["intervals"][figure]
    return low, high


def spread(values: Sequence[float], ends: Sequence[float]) -> str:
    """The mean and, of several values, their standard deviation or, of one, its interval."""
    mean = f"{statistics.fmean(values):.3g}"
    if len(values) < 2:
        return f"{mean} ({ends[0]:.3g} to {ends[1]:.3g})"
    return f"{mean} ± {statistics.stdev(values):.2g}"


def save(out: pathlib.Path, settings: dict[str, Any], found: Found) -> None:
    """Writes what is known by now: figures, table, plot, images and page."""
    known = {name: [dataclasses.asdict(cell) for cell in cells] for name, cells in found.items()}
    text = json.dumps({"settings": settings, "families": known}, indent=2)
    write_text(out / "comparison.json", text + "\n")
    write_text(out / "table.txt", table(found) + "\n")
    pictures = {"trilemma": trilemma(rows(found)), "images": images(rows(found))}
    for name, figure in pictures.items():
        write_whole(out / f"{name}.png", partial(figure.savefig, format="png"))
    page = Page(
        title=out.name,
        subtitle="families of generative models, trained for as long and judged alike",
        facts={name: str(value) for name, value in settings.items()},
        grids=[Picture(name, png(figure)) for name, figure in pictures.items()],
        grids_title="comparison",
        curves=None,
        flags=table(found),
        environment=environment(),
    )
    save_page(out / "report.html", page)


def png(figure: Figure) -> bytes:
    """The bytes of a PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def trilemma(made: Sequence[Row]) -> Figure:
    """Quality, diversity and speed: distance and recall against images a second, a point a seed."""
    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    quality, diversity = figure.subplots(1, 2)
    for i, row in enumerate(made):
        style = {"color": f"C{i % 10}", "marker": "osD^v<>"[i // 10], "label": row.name}
        speeds = [draw["images_per_second"] for draw in row.draws]
        quality.scatter(speeds, row.ratios(), **style)
        diversity.scatter(speeds, row.values("recall"), **style)
    quality.set(yscale="log", ylabel="Fréchet distance over that of real images (low is good)")
    quality.yaxis.set_major_formatter(ScalarFormatter())  # 20 and not 2 x 10^1
    quality.yaxis.set_minor_formatter(ScalarFormatter())
    diversity.set(ylabel="recall (high is good)")
    for axes in (quality, diversity):
        axes.set(xscale="log", xlabel="images a second (high is good)")
        axes.grid(alpha=0.3)
    figure.legend(*quality.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def images(made: Sequence[Row]) -> Figure:
    """The first images of each way to draw, of the first seed."""
    figure = Figure(figsize=(SHOWN * 0.75 + 3, 0.8 * max(1, len(made))), dpi=110)
    for i, row in enumerate(made):
        drawn = np.load(pathlib.Path(row.cells[0].folder) / f"drawn_{row.place}.npz")["images"]
        strip = np.concatenate(list(drawn[:SHOWN]), axis=1)
        axes = figure.add_axes((0.24, 1 - (i + 1) / len(made), 0.76, 0.94 / len(made)))
        axes.imshow(strip.squeeze(-1) if strip.shape[-1] == 1 else strip, cmap="gray")
        axes.axis("off")
        figure.text(0.01, 1 - (i + 0.5) / len(made), row.name, va="center", fontsize=9)
    return figure

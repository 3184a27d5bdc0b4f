"""A run's page: pictures, charts and facts in one HTML file that needs no network."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from diffjax.display.template import fill
from diffjax.files import write_text


@dataclasses.dataclass(frozen=True)
class Curve:
    """A number against the training step, steps ascending; what is not finite leaves a gap."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A stop of a slider: a PNG's bytes, and what is said of it."""

    label: str
    png: bytes


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was measured of a finished run: facts by name, and a PNG's bytes where there is one."""

    title: str
    facts: Mapping[str, str]
    png: bytes | None = None


@dataclasses.dataclass(frozen=True)
class Page:
    """What a page shows; whatever is empty is left out or said to be missing."""

    title: str
    subtitle: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    grids: Sequence[Picture] = ()
    grids_title: str = "samples"
    film: Sequence[Picture] = ()
    film_title: str = "reverse process"
    curves: Sequence[Curve] | None = ()  # None: it never has any
    findings: Sequence[Finding] = ()
    flags: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def render(page: Page) -> str:
    """The page as HTML. Text is escaped, wherever it comes from."""
    charts = [_chart(curve) for curve in page.curves or ()]
    return fill("page.html", page=page, charts=charts, plotly_js=_plotly_js)


def save_page(path: str | os.PathLike[str], page: Page) -> None:
    """Writes the page, whole or not at all. Raises OSError where it cannot be written."""
    write_text(path, render(page))


def _chart(curve: Curve) -> dict[str, Any]:
    """What the page's script plots: JSON knows no NaN, and a log scale nothing below 0."""
    finite = [value for value in curve.values if math.isfinite(value)]
    return {
        "name": curve.name,
        "steps": list(curve.steps),
        "values": [value if math.isfinite(value) else None for value in curve.values],
        "latest": _short(finite[-1]) if finite else "not a number",
        "positive": bool(finite) and min(finite) > 0,
    }


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _plotly_js() -> str:
    import plotly.offline  # here, so that a program pays for it when its first page is written

    return plotly.offline.get_plotlyjs()

"""What evaluations and audits have found in a run, for its report page."""

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from diffjax.display.page import Finding

Values = Mapping[str, Any]


def read_findings(folder: pathlib.Path) -> list[Finding]:
    """What the files in the folder of a run tell, as far as they can be read."""
    made = []
    for file, readers in READERS.items():
        saved = read_object(folder / file)
        for key, (title, read, picture) in readers.items():
            values = saved if key is None else saved.get(key)
            if not isinstance(values, Mapping):
                continue
            try:
                facts = dict(read(values))
            except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
                continue
            path = folder / picture
            png = path.read_bytes() if picture and path.is_file() else None
            made.append(Finding(title, facts, png))
    return made


def _judged(values: Values) -> Iterator[tuple[str, str]]:
    samples, real = values["samples"], values["real"]
    yield "images", f"{values['num']:,} of step {values['step']:,}"
    yield "sampler", f"{values['sampler']}, {values['steps']} steps"
    if values.get("watermarked"):
        yield "noise", "with a watermark"
    if values.get("weak"):
        yield "guided away from", f"{values['weak']}, at a scale of {values['guidance_scale']:g}"
    for name in ("frechet", "kernel", "precision", "recall", "coverage"):
        if name in samples:
            low, high = samples["intervals"][name]
            yield name, f"{samples[name]:.3g} ({low:.3g} to {high:.3g}), real {real[name]:.3g}"


def _bias(values: Values) -> Iterator[tuple[str, str]]:
    tests = [p_value for row in values["p_values"] for p_value in row]
    differ = sum(p_value < 0.05 for p_value in tests)
    yield "frequencies that differ (p below 0.05)", f"{differ} of {len(tests)}"
    found = values["attributes"]
    for i, name in enumerate(found["names"]):
        drawn = (
            f"{means[i]:.3f} at guidance {scale:g} (p = {p_values[i]:.2g})"
            for scale, means, p_values in zip(
                values["scales"], found["drawn"], found["p_values"], strict=True
            )
        )
        yield name, f"{', '.join(drawn)}, real {found['real'][i]:.3f}"


def _copies(values: Values) -> Iterator[tuple[str, str]]:
    yield "copies of training images", f"{values['copies']} of {values['num']:,} samples"
    yield "score below", f"{values['threshold']:.3f}"


def _members(values: Values) -> Iterator[tuple[str, str]]:
    for name, told in values.items():
        if isinstance(told, Mapping):
            auc, low, high = told["auc"]
            yield f"area under the curve by {name}", f"{auc:.3f} ({low:.3f} to {high:.3f})"
            caught, least, most = told["caught"]
            yield f"members found by {name}", f"{caught:.3f} ({least:.3f} to {most:.3f})"
    members, others = values["num"], values.get("others", values["num"])
    yield "members and others", f"{members:,} and {others:,}"


def _robustness(values: Values) -> Iterator[tuple[str, str]]:
    yield "watermark", values["watermark"]
    for row in values["rows"]:
        bits = "" if row["bits"] is None else f", bits right {row['bits']:.3f}"
        yield row["change"], f"found {row['found']:.2f}, AUC {row['auc']:.3f}{bits}"
    if real := values.get("held_out"):
        yield (
            "held-out images",
            f"found {real['false']:.4f} of {real['num']:,}; p uniform: {real['uniform']:.2g}",
        )


def _swept(values: Values) -> Iterator[tuple[str, str]]:
    rows = values["rows"]
    name = "scale" if "scale" in rows[0] else "length"
    best = min(rows, key=lambda row: row["frechet"])
    yield (
        f"nearest to real images at {name}",
        "of ema_decay" if best[name] is None else f"{best[name]:g}",
    )
    yield "Fréchet distance there", f"{best['frechet']:.3g}"


Reader = tuple[str, Callable[[Values], Iterator[tuple[str, str]]], str]
READERS: dict[str, dict[str | None, Reader]] = {
    "evaluation.json": {
        None: ("what a judge sees", _judged, ""),
        "guidance": ("guidance", _swept, "guidance.png"),
        "averages": ("length of the weights' average", _swept, "averages.png"),
        "bias": ("classes and attributes, drawn and of the data", _bias, ""),
    },
    "audit.json": {
        "copies": ("memorised images", _copies, "nearest.png"),
        "members": ("membership", _members, ""),
        "robustness": ("watermark", _robustness, ""),
    },
}


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """A file's JSON object; an empty one where there is none, or none that is whole."""
    try:
        value = json.loads(path.read_text("utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

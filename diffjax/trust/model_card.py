"""A run's model card: what it was trained on, what it does, and what is not known of it.

The layout is Hugging Face's (README.md with a YAML head; Mitchell et al. 2019).
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffjax.interop.json_files import read_json
from diffjax.run_report import read_lines

SPEED, EVALUATION, AUDIT = "speed.jsonl", "evaluation.json", "audit.json"
FIGURES = {
    "frechet": "Fréchet distance", "kernel": "kernel distance", "precision": "precision",
    "recall": "recall", "coverage": "coverage",
}  # fmt: skip
LACKS = {
    "licence": "the licence of the weights",
    "data_licence": "the licence of the data",
    "figures": "figures of sample quality",
    "copies": "a search for copies of training images",
    "members": "membership attacks",
}


class Card(NamedTuple):
    """The card's text, and what it lacks, of LACKS; it is complete where that is nothing."""

    text: str
    lacks: tuple[str, ...]


class Told(NamedTuple):
    """What no file of a run says, or not to everyone. None is unknown.

    watts: of the machine while it trained. flags: what was asked for, as may be published.
    """

    licence: str | None = None
    data_licence: str | None = None
    watts: float | None = None
    flags: str = ""


def model_card(folder: pathlib.Path, config: Mapping[str, Any], told: Told) -> Card:
    """The card of a run, of what its folder holds. config: as in its config.json.

    Raises UserError for a file of the run that cannot be read.
    """
    evaluation, audit = _object(folder / EVALUATION), _object(folder / AUDIT)
    environment = _object(folder / "environment.json")
    known = {
        "licence": told.licence, "data_licence": told.data_licence,
        "figures": evaluation.get("samples"), "copies": audit.get("copies"),
        "members": audit.get("members"),
    }  # fmt: skip
    lacks = [name for name in LACKS if not known[name]]
    # A data set's options may name a place on the machine that trained.
    dataset = config["training"]["dataset"].partition("(")[0]
    parts = [
        _head(told),
        f"# {folder.resolve().name}",
        f"A {config['task']} model, trained by diffjax on `{dataset}`.",
        "## Missing\n\n" + "\n".join(f"- {LACKS[name]}" for name in lacks) if lacks else "",
        f"## Data\n\n- Data set: `{dataset}`\n- Licence: {told.data_licence or 'not stated'}",
        "## Training\n\n" + _training(folder, environment, told),
        "## Figures\n\n" + _figures(evaluation),
        "## Audits\n\n" + _audits(audit),
        "## Limits\n\n"
        "- The model draws images like those of its data set, and no others.\n"
        "- Figures hold for the sampler and the number of steps that are named.\n"
        "- The audits look for copies and for members by known attacks; others may find more.",
    ]
    return Card("\n\n".join(part for part in parts if part) + "\n", tuple(lacks))


def _head(told: Told) -> str:
    """YAML; the licence by its identifier, as the Hugging Face hub has it."""
    lines = [f"license: {told.licence}"] if told.licence else []
    return "\n".join(["---", *lines, "library_name: diffusers", "tags:", "- diffjax", "---"])


def _training(folder: pathlib.Path, environment: Mapping[str, Any], told: Told) -> str:
    seconds, steps = _duration(folder / SPEED)
    hours = seconds / 3600
    energy = "not estimated: the machine's power is unknown"
    if told.watts is not None:
        energy = f"{hours * told.watts / 1000:.3f} kWh, if the machine draws {told.watts:g} W"
    versions = [f"{n} {environment[n]}" for n in ("jax", "flax", "optax") if n in environment]
    lines = [
        f"- Steps: {steps:,}",
        f"- Time: {hours:.2f} h in train steps",
        f"- Machine: {environment.get('cpu', 'unknown')}, {environment.get('devices', 'unknown')}",
        f"- Versions: {', '.join(versions)}",
        f"- Energy: {energy}",
    ]
    shown = f"\n\n```\n{told.flags.strip()}\n```" if told.flags else ""
    return "\n".join(lines) + shown


def _figures(found: Mapping[str, Any]) -> str:
    if "samples" not in found:
        return "Not measured."
    samples, real = found["samples"], found["real"]
    rows = ["| figure | samples | 95% interval | real images |", "|---|---|---|---|"]
    for name, title in FIGURES.items():
        if name in samples:
            low, high = samples["intervals"][name]
            rows.append(
                f"| {title} | {samples[name]:.3f} | {low:.3f} to {high:.3f} | {real[name]:.3f} |"
            )
    return "\n".join(rows) + (
        f"\n\n{found['num']:,} samples of step {found['step']:,} by `{found['sampler']}` in "
        f"{found['steps']} steps{_drawn_how(found)}; features of {found['extractor']['name']} "
        f"{found['extractor']['checksum'][:8]}. The column of real images is the floor."
    )


def _audits(found: Mapping[str, Any]) -> str:
    lines = []
    if "copies" in found:
        own = found["copies"]
        lines.append(f"- Copies of training images: {own['copies']} of {own['num']:,} samples")
    for name, attack in found.get("members", {}).items():
        if isinstance(attack, dict):
            auc, caught = attack["auc"], attack["caught"]
            lines.append(
                f"- Membership by {name}: AUC {auc[0]:.3f} ({auc[1]:.3f} to {auc[2]:.3f}); "
                f"{caught[0]:.1%} of members at 1% of others"
            )
    return "\n".join(lines) or "None was run."


def _drawn_how(found: Mapping[str, Any]) -> str:
    """What else decided what was judged."""
    marked = ", from marked noise" if found.get("watermarked") else ""
    return f"{marked}, guided away from a weaker run" if found.get("weak") else marked


def _duration(path: pathlib.Path) -> tuple[float, int]:
    """Seconds and steps of the lines of speed.jsonl."""
    seconds, last = 0.0, 0
    for step, told in read_lines(path).items():
        if told.get("steps_per_s"):
            seconds += (step - last) / told["steps_per_s"]
        last = step
    return seconds, last


def _object(path: pathlib.Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}

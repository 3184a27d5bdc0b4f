"""Trains one network many ways on one budget, and says what each choice buys.

python -m experiments.ablate --flagfile=experiments/flagfiles/ablate_fashion_mnist.flags --judge=RUN
Stopped at any moment, the same command goes on: a cell of the grid is a run of experiments.ddpm.
"""

import dataclasses
import json
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tqdm
from absl import flags
from matplotlib.figure import Figure

from diffjax import runs, spec
from diffjax.display.page import Page, Picture, save_page
from diffjax.errors import UserError
from diffjax.files import write_text, write_whole
from diffjax.models.course_unet import CourseUNet
from experiments import ddpm
from experiments.flags import cpu_devices, kinds, learning, presets
from experiments.measurements import children
from experiments.start import command

flags.adopt_module_key_flags(learning)
flags.adopt_module_key_flags(ddpm)
FACTORS: dict[str, tuple[str, ...]] = {
    "norm": ("group", "batch", "layer", "instance", "none"),
    "activation": ("gelu", "silu", "relu"),
    "pooling": ("rearrange", "max", "strided", "average"),
    "time_embedding": ("sinusoidal", "fourier", "raw"),
}
TABLES = (*FACTORS, "mistakes")
VALUES = tuple(f"{factor}.{value}" for factor, values in FACTORS.items() for value in values)
LEGAL = f"{', '.join(TABLES)}, or single values as norm.batch"
ABLATE = flags.DEFINE_list("ablate", list(TABLES), f"what is varied: {LEGAL}")
JUDGE = kinds.define_path(
    "judge", None, "the folder of a run of experiments.classifier", required=True
)
SEEDS = kinds.define_integer("seeds", 3, "runs of each choice", lower_bound=1)
NUM = kinds.define_integer("num", 500, "images that are drawn and judged a run", lower_bound=12)
JOBS = kinds.define_integer("jobs", 1, "runs at a time: on a CPU, one a core", lower_bound=1)
OUT = kinds.define_path("out", "ablation", "the folder to write")
presets.define_preset(
    smoke={
        "ablate": ["activation.gelu", "activation.relu"], "seeds": 1, "num": 100, "jobs": 2,
        "course_compat": False,
        "model": "course_unet(form='first',channels=(8,8,8),groups=(4,4),num_class_embeds=10)",
    }
)  # fmt: skip
MEASURES = {
    "loss": "held-out loss",
    "frechet": "Fréchet distance",
    "recall": "recall",
    "confidence": "judge's confidence",
    "agreement": "class asked for",
    "checkerboard": "checkerboard energy",
}
Found = dict[str, list[dict[str, float]]]  # by a choice's folder, the figures of each seed


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row: what is varied, the value, and the flags of experiments.ddpm that give it."""

    factor: str
    value: str
    flags: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Of its runs; what is as the flags have it shares the base's."""
        return re.sub(r"\W+", "_", f"{self.factor} {self.value}") if self.flags else "base"


def main() -> None:
    if not ABLATE.value or not set(ABLATE.value) <= {*TABLES, *VALUES}:
        raise UserError(f"--ablate={','.join(ABLATE.value)}: choose among {LEGAL}")
    runs.open_run(JUDGE.value)  # or it would be found missing after the first run
    out = pathlib.Path(OUT.value)
    rows = choices(base_model())
    make_folder(out)
    by_folder = {choice.folder: choice for choice in rows}
    cells = [(choice, seed) for seed in range(SEEDS.value) for choice in by_folder.values()]
    found: Found = {}
    with ThreadPoolExecutor(JOBS.value) as pool:
        figures = pool.map(lambda cell: measured(out, *cell), cells)
        bar = tqdm.tqdm(figures, "runs", len(cells), file=sys.stderr, disable=None)
        for (choice, _), values in zip(cells, bar, strict=True):
            found.setdefault(choice.folder, []).append(values)
            save(out, rows, found)
    print(table(rows, found))
    print(f"{SEEDS.value} runs of {learning.STEPS.value} steps each, in {out}")


def make_folder(out: pathlib.Path) -> None:
    """Writes what the runs have in common. Raises UserError for a folder of other runs."""
    text, path = learning.flags_text("ddpm", ddpm.OWN), out / "base.flags"
    if path.exists() and path.read_text() != text:
        raise UserError(f"{path} has other flags than these: use those, or another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def base_model() -> CourseUNet:
    """The course's network as the flags have it. Raises UserError for another.

    --course_compat is settled here, into flags that each can be changed alone.
    """
    ddpm.repeat_course()
    records = learning.open_records()
    model = ddpm.fitted_model(records, records.image_shape)
    if not isinstance(model, CourseUNet):
        raise UserError(f"--model={ddpm.MODEL.value}: what is varied here is a course_unet")
    if model.num_class_embeds is None:
        raise UserError("what is asked of a judge here needs classes: pass --num_classes=data")
    ddpm.condition_of(model, records)
    flags.FLAGS[ddpm.COURSE_COMPAT.name].value = False
    flags.FLAGS[ddpm.MODEL.name].value = spec.render(model)
    return model


def choices(model: CourseUNet) -> list[Choice]:
    """The rows of the tables that are asked for; the base's own have no flags."""

    def built(**options: Any) -> tuple[str, ...]:
        same = all(getattr(model, option) == value for option, value in options.items())
        return () if same else (f"--model={spec.render(model.clone(**options))}",)

    rows = [
        Choice(factor, value, built(**{factor: value}))
        for factor, values in FACTORS.items()
        for value in values
        if {factor, f"{factor}.{value}"} & set(ABLATE.value)
    ]
    if "mistakes" in ABLATE.value:
        rows += mistakes(model, built)
    return rows


def mistakes(model: CourseUNet, built: Any) -> Iterator[Choice]:
    """What the course gets wrong, each mended alone; its seventh, of CLIP, is not of this part."""
    steps = ddpm.schedule_steps()
    # Ho et al.'s betas for 1,000 steps, as much noise in fewer.
    noisier = f"linear(steps={steps},beta_start={0.1 / steps:.6g},beta_end={20 / steps:.6g})"
    yield Choice("mistakes", "as the course has it")
    yield Choice("mistakes", "1 schedule ends in noise", (f"--schedule={noisier}",))
    yield Choice("mistakes", "2 sigma is the posterior's", ("--sampler=ddpm",))
    yield Choice("mistakes", "3 time is not divided by T", built(time_scale=1))
    yield Choice("mistakes", "4 a sample's whole class is dropped", ("--cond_mask=sample",))
    yield Choice("mistakes", "5 groups of that size", built(groups_are="size"))
    everything = f"--dataset=everything(of={learning.DATASET.value!r})"
    yield Choice("mistakes", "6 not mended: trained on the test set", (everything,))


def measured(out: pathlib.Path, choice: Choice, seed: int) -> dict[str, float]:
    """Trains a cell, or goes on with it, and measures it, unless that was done before."""
    run = out / "cells" / choice.folder / f"seed_{seed}"
    if (values := _measured_before(run)) is not None:
        return values
    given = (f"--flagfile={out / 'base.flags'}", *choice.flags, f"--seed={seed}")
    children.run("experiments.ddpm", *given, f"--workdir={run}", cores=cores_each())
    own = [flag for flag in choice.flags if flag.startswith("--sampler=")]
    data_dir = learning.DATA_DIR.value
    children.run(
        "experiments.evaluate", f"--run={run}", f"--judge={JUDGE.value}", "--metrics=judge,loss",
        f"--num={NUM.value}", f"--steps={ddpm.SAMPLE_STEPS.value}",
        f"--cpu_devices={cores_each()}",
        *(own or [f"--sampler={ddpm.SAMPLER.value}"]),
        *([] if data_dir is None else [f"--data_dir={data_dir}"]),
        cores=cores_each(),
    )  # fmt: skip
    values = _measured_before(run)
    if values is None:
        raise UserError(f"{run}: {NUM.value} images are more than --judge has real ones for")
    return values


def _measured_before(run: pathlib.Path) -> dict[str, float] | None:
    """The figures of a run that was trained and measured as the flags ask."""
    path = run / "evaluation.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    asked = {"step": learning.STEPS.value, "num": NUM.value, "judge": JUDGE.value}
    if any(saved.get(name) != value for name, value in asked.items()) or "loss" not in saved:
        return None
    values = {**saved["samples"], "loss": saved["loss"]["mean"]}
    return {measure: values[measure] for measure in MEASURES}


def cores_each() -> int:
    """Of those there are, for each of --jobs."""
    return max(1, cpu_devices.cores() // JOBS.value)


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation, 0 of one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def save(out: pathlib.Path, rows: list[Choice], found: Found) -> None:
    """Writes what is known by now: figures, plot and page."""
    known = [row for row in rows if row.folder in found]
    values = [{**dataclasses.asdict(row), "seeds": found[row.folder]} for row in known]
    text = json.dumps({"num": NUM.value, "steps": learning.STEPS.value, "rows": values}, indent=2)
    write_text(out / "ablation.json", text + "\n")
    figure = plot(known, found)
    write_whole(out / "ablation.png", lambda part: figure.savefig(part, format="png"))
    last = f"samples/step_{learning.STEPS.value:08d}.png"
    cells = {row.folder: out / "cells" / row.folder / "seed_0" for row in known}
    environment = next(iter(cells.values())) / "environment.json"
    page = Page(
        title=out.resolve().name,
        subtitle="each choice's images after the same steps, from the same noise",
        facts={"runs of a choice": str(SEEDS.value), "steps": str(learning.STEPS.value)},
        grids=[  # the page opens at the last
            *(Picture(name, (cell / last).read_bytes()) for name, cell in cells.items()),
            Picture("figures", (out / "ablation.png").read_bytes()),
        ],
        curves=None,
        flags=(out / "base.flags").read_text(),
        environment=json.loads(environment.read_text()),
    )
    save_page(out / "report.html", page)


def table(rows: list[Choice], found: Found) -> str:
    """A choice a line: of each measure mean and standard deviation over the seeds."""
    lines = [f"{'':<48}" + "".join(f"{title:>22}" for title in MEASURES.values())]
    for row in rows:
        line = f"{row.factor + ': ' + row.value:<46}{' ' if row.flags else '*':<2}"
        for measure in MEASURES:
            mean, deviation = spread([seed[measure] for seed in found[row.folder]])
            line += f"{f'{mean:.4g} +- {deviation:.2g}':>22}"
        lines.append(line)
    return "\n".join([*lines, "* as the flags have it: the same runs in each table"])


def plot(rows: list[Choice], found: Found) -> Figure:
    """A panel a measure, a row a choice: mean and standard deviation over the seeds."""
    figure = Figure(figsize=(15, 1.5 + 0.24 * len(rows)), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        ends = [spread([seed[measure] for seed in found[row.folder]]) for row in rows]
        for i, (row, (mean, deviation)) in enumerate(zip(rows, ends, strict=True)):
            style = {"color": f"C{TABLES.index(row.factor)}", "ms": 5 if row.flags else 8}
            axes.errorbar(mean, i, xerr=deviation, fmt="o" if row.flags else "*", **style)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [f"{row.factor}: {row.value}" for row in rows])
    panels[0].invert_yaxis()
    return figure


if __name__ == "__main__":
    command.run(main)

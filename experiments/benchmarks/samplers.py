"""Samplers by network evaluations, Fréchet distance and seconds, for a trained run.

python -m experiments.benchmark samplers --run=DIR --judge=DIR2
"""

import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from tqdm import tqdm

import diffjax.samplers
import diffjax.spacings
from diffjax import runs, spec
from diffjax.data import images
from diffjax.errors import UserError
from diffjax.generate import Draw, generate, make_draw, times_of
from diffjax.metrics.frechet import frechet_distance
from diffjax.metrics.judge import make_judge
from diffjax.runs import Run
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddpm import DDPM
from diffjax.spacings.base import Spacing
from diffjax.tasks.classifier import CLASSIFIER, Classification
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from experiments.flags import cpu_devices, kinds, specs
from experiments.flags.judges import load_judge
from experiments.measurements import measuring

flags.adopt_module_key_flags(cpu_devices)
RUN = kinds.define_path("run", None, "the folder of the run that draws", required=True)
JUDGE = kinds.define_path(
    "judge", None, "the folder of a run of experiments.classifier", required=True
)
SAMPLER = specs.define_specs(
    "sampler", diffjax.samplers, "what is measured, give it as often as is wanted; by default each"
)
SPACING = specs.define_spec(
    "spacing", None, diffjax.spacings, "their times; by default those each sampler does best on"
)
NFE = kinds.define_integers(
    "nfe", [5, 10, 20, 50], "network evaluations an image; give it as often as numbers are wanted",
    lower_bound=1,
)  # fmt: skip
NUM = kinds.define_integer("num", 500, "images a measurement", lower_bound=2)
BATCH_SIZE = kinds.define_integer("batch_size", 100, "images at a time", lower_bound=1)
REFERENCE_STEPS = kinds.define_integer(
    "reference_steps", 1000, "DDPM's steps to what distances are measured from", lower_bound=1
)
SEED = kinds.define_seed()
OUT = kinds.define_path("out", None, "the folder to write; by default RUN/benchmark")


class Row(NamedTuple):
    """One sampler at one number of steps."""

    sampler: str
    nfe: int
    steps: int
    frechet: float
    seconds: float  # an image, compilation aside


def main() -> None:
    cpu_devices.split_cpu(cpu_devices.cores())
    run = runs.load(RUN.value, DenoiserTask)
    judge = load_judge(JUDGE.value, run.task)
    out = pathlib.Path(OUT.value or pathlib.Path(RUN.value) / "benchmark")
    out.mkdir(parents=True, exist_ok=True)  # before what takes minutes
    rows, floor = measure(run, judge)
    values = {
        "num": NUM.value,
        "step": run.step,
        "reference": f"ddpm, {REFERENCE_STEPS.value} steps",
        "floor": floor,
        "spacing": SPACING.value,
        "batch_size": BATCH_SIZE.value,
        "rows": [row._asdict() for row in rows],
    }
    measuring.save(out, "samplers", values, plot(rows, floor))
    print(table(rows, floor))
    print(f"{NUM.value} images of step {run.step} each, in {out}")


def measure(run: Run[DenoiserTask], judge: Run[Classification]) -> tuple[list[Row], float]:
    """All rows, and the distance of two references, which is the least there is to see."""
    task, params = run.task, run[DENOISER].params
    look = make_judge(judge.task.model.apply, BATCH_SIZE.value)
    samplers = chosen(task)
    work = 2 * REFERENCE_STEPS.value + len(samplers) * sum(NFE.value)
    with tqdm(total=work * NUM.value, unit="nfe", unit_scale=True, disable=None) as bar:

        def features(
            sampler: Sampler, draw: Draw, spacing: Spacing, steps: int, most: int, seed: int
        ) -> Any:
            times = times_of(task.process, params, spacing, steps, most)
            drawn, seconds = timed(run, draw, times, seed)
            bar.update(sampler.nfe(steps) * NUM.value)
            return look(judge[CLASSIFIER].params, images.scaled(drawn)).features, seconds

        ancestral, most = DDPM(), REFERENCE_STEPS.value
        draw = drawing(task, ancestral)
        reference, other = (
            features(ancestral, draw, ancestral.spacing, most, most, SEED.value + i)[0]
            for i in (0, 1)
        )
        rows = []
        for name, sampler in samplers.items():
            draw = drawing(task, sampler)
            spacing, most = specs.spacing_of(SPACING.value, sampler), max(NFE.value)
            for nfe, steps in affordable(sampler):
                seen, seconds = features(sampler, draw, spacing, steps, most, SEED.value + 2)
                distance = frechet_distance(seen, reference)
                rows.append(Row(name, nfe, steps, distance, seconds / NUM.value))
    return rows, frechet_distance(other, reference)


def drawing(task: DenoiserTask, sampler: Sampler) -> Draw:
    """The task's network drawn from by a sampler."""
    return make_draw(task.model, task.process, sampler, task.shape, limit=task.space.limit)


def chosen(task: DenoiserTask) -> dict[str, Sampler]:
    """The samplers that are asked for, or every one that can serve the run with its defaults.

    Raises UserError for one asked for that cannot.
    """
    wanted = SAMPLER.value or spec.names(diffjax.samplers)
    found = {}
    for text in wanted:
        sampler = spec.build(text, diffjax.samplers)
        try:
            sampler.check(task.process)
        except UserError:
            if SAMPLER.value:
                raise
            continue
        found[text] = sampler
    return found


def affordable(sampler: Sampler) -> Iterator[tuple[int, int]]:
    """Each number of evaluations and the most steps it pays for, where it pays for one."""
    for nfe in NFE.value:
        steps = max((n for n in range(1, nfe + 1) if sampler.nfe(n) <= nfe), default=0)
        if steps:
            yield sampler.nfe(steps), steps


def timed(
    run: Run[DenoiserTask], draw: Draw, times: Float[Array, "T"], seed: int
) -> tuple[UInt8[np.ndarray, "N H W C"], float]:
    """Drawn images, and the seconds that they took once the program was compiled."""
    params, condition = run[DENOISER].params, run.task.condition
    batch = min(BATCH_SIZE.value, NUM.value)
    decode = run.task.decoder(run.components, batch)

    def drawn(count: int, times: Float[Array, "T"]) -> UInt8[np.ndarray, "N H W C"]:
        cond, key = condition.asked(None, count), jax.random.key(seed)
        x0, _ = generate(draw, params, key, count, batch, times, cond)
        return images.to_uint8(decode(x0))

    drawn(batch, jnp.zeros_like(times))  # compiles, and takes no step
    start = time.perf_counter()
    made = drawn(NUM.value, times)
    return made, time.perf_counter() - start


def table(rows: list[Row], floor: float) -> str:
    """The rows in text, the nearest of each number of evaluations marked."""
    lines = [f"{'sampler':<22}{'nfe':>5}{'steps':>7}{'Fréchet':>10}{'ms/image':>10}"]
    for row in rows:
        best = row.frechet == min(r.frechet for r in rows if r.nfe == row.nfe)
        lines.append(
            f"{row.sampler:<22}{row.nfe:>5}{row.steps:>7}{row.frechet:>10.2f}"
            f"{1000 * row.seconds:>10.2f}{'  *' if best else ''}"
        )
    lines.append(
        f"two sets of {REFERENCE_STEPS.value} DDPM steps: {floor:.2f}; * nearest of its nfe"
    )
    return "\n".join(lines)


def plot(rows: list[Row], floor: float) -> Figure:
    """Fréchet distance against evaluations and against seconds, a line a sampler."""
    figure = Figure(figsize=(11, 5.5), dpi=120, layout="constrained")
    by_nfe, by_time = figure.subplots(1, 2, sharey=True)
    for i, name in enumerate(dict.fromkeys(row.sampler for row in rows)):
        own = [row for row in rows if row.sampler == name]
        style = {
            "marker": "os^vDPX*"[i % 8],
            "ls": ("-", "--", ":")[i // 10],
            "color": f"C{i % 10}",
        }
        distances = [row.frechet for row in own]
        by_nfe.plot([row.nfe for row in own], distances, label=name, **style)
        by_time.plot([1000 * row.seconds for row in own], distances, **style)
    for axes, label in ((by_nfe, "network evaluations"), (by_time, "milliseconds an image")):
        axes.axhline(floor, color="grey", lw=1)
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both")
    by_nfe.set_ylabel(f"Fréchet distance to {REFERENCE_STEPS.value} DDPM steps")
    figure.legend(loc="outside right upper", fontsize=9)
    return figure

"""The main job beside what people take instead: as many minutes, and then one judge for all.

python -m experiments.benchmark recipes --judge=DIR --seeds=3

The main job runs as a program, from nothing compiled, pictures included. Each other recipe then
trains for as many seconds on the same images and cores, by torch. All draw --num images in --steps
steps: the main job as its flagfile says, the others by DDIM, whose better of eta 0 and 1 counts.
"""

import pathlib
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from diffjax import runs
from diffjax.errors import UserError
from diffjax.tasks.classifier import Classification
from diffjax.tasks.denoisers import DenoiserTask
from experiments.evaluations import drawn, held_out
from experiments.flags import cpu_devices, kinds
from experiments.measurements import children, measuring, torch_peer
from experiments.measurements.main_job import FLAGFILE, flagfile
from experiments.measurements.other_recipes import OURS, RECIPES, medians, share

for module in (cpu_devices, held_out, drawn):
    flags.adopt_module_key_flags(module)
REACH = 0.5  # of the nearest other one's distance
JOB_STEPS = kinds.define_integer("job_steps", None, "steps of the main job, for a try", 1)
SEEDS = kinds.define_integer("seeds", 3, "times that all are trained", lower_bound=1)
OUT = kinds.define_path("out", "benchmark", "the folder to write, with runs and images")


def main() -> None:
    torch_peer.libraries()  # before what takes minutes
    if drawn.JUDGE.value is None:
        raise UserError("recipes needs --judge, a run of experiments.classifier")
    for flag in (drawn.GUIDANCE, drawn.CHOSEN, *drawn.OF_IMAGES):
        if flag.present:
            raise UserError(f"--{flag.name} does nothing with recipes: leave it out")
    cpu_devices.split_cpu(cpu_devices.cores())  # before JAX looks for devices
    # Or the judge, or --num, would be refused after the first training.
    drawn.set_up(runs.load(drawn.JUDGE.value, Classification))
    if not drawn.SAMPLER.present:
        flags.FLAGS[drawn.SAMPLER.name].value = flagfile()["sampler"]
    out = pathlib.Path(OUT.value).absolute()
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for seed in range(SEEDS.value) for row in one_seed(seed, out)]
    values = {"reach": REACH, "share": share(rows), "steps": drawn.STEPS.value, "rows": rows}
    measuring.save(out, "recipes", values, plot(rows))
    print(line(rows))
    print(f"in {out}")


def one_seed(seed: int, out: pathlib.Path) -> list[dict[str, Any]]:
    """A row each, of a seed's training."""
    folder = out / f"{OURS}_{seed}"
    steps = [] if JOB_STEPS.value is None else [f"--steps={JOB_STEPS.value}"]
    seconds = children.run(
        "experiments.ddpm", f"--flagfile={FLAGFILE}", f"--seed={seed}", *steps,
        f"--workdir={folder}", JAX_COMPILATION_CACHE_DIR=str(out / f"cache_{seed}"),
    ).seconds  # fmt: skip
    run = runs.load(folder, DenoiserTask)
    bench, drawing = drawn.set_up(run), drawn.Drawing(run, guided=False)
    labels = drawing.labels(bench.num)

    def row(side: str, images: np.ndarray, labels: Any = None, **more: Any) -> dict[str, Any]:
        found = bench.compare(bench.see(images, labels))
        seen, real = found["samples"], found["real"]
        told = {name: seen[name] for name in ("frechet", "recall", "precision", "confidence")}
        ratio = seen["frechet"] / real["frechet"]
        return {"side": side, "seed": seed, "seconds": seconds, "ratio": ratio, **told, **more}

    rows = [row(OURS, drawing(bench.num, 1.0), labels, steps=run.step)]
    for name in RECIPES:
        file = out / f"{name}_{seed}.npz"
        children.run(
            "experiments.measurements.torch_recipes", f"--recipe={name}", f"--seconds={seconds}",
            f"--num={bench.num}", f"--steps={drawn.STEPS.value}", f"--seed={seed}",
            f"--out={file}",
        )  # fmt: skip
        saved = np.load(file)
        sides = [
            row(name, saved[key], steps=int(saved["steps"]), drawn_with=key)
            for key in saved.files if key.startswith("eta")
        ]  # fmt: skip
        rows.append(min(sides, key=lambda row: row["frechet"]))
    for found in rows:
        print(told(found), flush=True)
    return rows


def told(row: dict[str, Any]) -> str:
    """One training in words."""
    return (
        f"{row['side']:<28} seed {row['seed']}: {row['steps']} steps in {row['seconds']:.0f} s, "
        f"Fréchet distance {row['frechet']:.1f}, {row['ratio']:.2f} times that of real images; "
        f"recall {row['recall']:.3f}, precision {row['precision']:.3f}"
    )


def line(rows: list[dict[str, Any]]) -> str:
    """The result in words."""
    distances = ", ".join(f"{side} {value:.1f}" for side, value in medians(rows).items())
    return f"median Fréchet distance: {distances}; ours is {share(rows):.2f} of the nearest other's"


def plot(rows: list[dict[str, Any]]) -> Figure:
    """Fréchet distance and recall, a point a training."""
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for side in medians(rows):
        own = [row for row in rows if row["side"] == side]
        axes.scatter([row["frechet"] for row in own], [row["recall"] for row in own], label=side)
    axes.set(xlabel="Fréchet distance", ylabel="recall", xscale="log")
    axes.legend()
    return figure

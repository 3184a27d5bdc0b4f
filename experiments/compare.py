"""Trains each family of generative models for as long on the same images, and judges all alike.

python -m experiments.compare --dataset=embedded --judge=RUN --minutes=9
Stopped at any moment, the same command goes on: each stage of a cell is a run of its own. The steps
that a family makes in a second are measured first, and from them follows how long it may train.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import tqdm
from absl import flags

from diffjax import runs
from diffjax.data.images import to_uint8
from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.runs import Run
from diffjax.tasks.classifier import Classification
from experiments.evaluations import drawn, held_out
from experiments.flags import cpu_devices, dataset, kinds, presets
from experiments.flags.dataset import DATASET, IMAGE_SIZE
from experiments.measurements import children
from experiments.measurements.compared import Cell, save, table
from experiments.measurements.compared_bits import bits_of
from experiments.measurements.contenders import FAMILIES, Drawn, Family, Stage
from experiments.start import command

for module in (cpu_devices, held_out, dataset):
    flags.adopt_module_key_flags(module)
flags.declare_key_flag(drawn.JUDGE.name)
NAMES = flags.DEFINE_list("families", list(FAMILIES), f"those to train: {', '.join(FAMILIES)}")
MINUTES = kinds.define_number("minutes", 9.0, "of training, start and compilation included", 0)
SEEDS = kinds.define_integer("seeds", 3, "trainings of each family", lower_bound=1)
JOBS = kinds.define_integer("jobs", 1, "trainings at a time, which share the cores", lower_bound=1)
OUT = kinds.define_path("out", "comparison", "the folder to write")
PLAN = "plan.json"
OF_BITS = 100  # held-out images whose bits/dim are told
TRIED, LEAST = 60, 20  # steps of a trial, and the fewest that a training may have
presets.define_preset(
    smoke={"families": ["gan", "ddpm"], "minutes": 0.7, "seeds": 1, "num": 100, "jobs": 1}
)


@dataclasses.dataclass(frozen=True)
class Budget:
    """Of each family the steps of its stages, and what they are planned for."""

    settings: dict[str, Any]
    steps: dict[str, list[int]]


def main() -> None:
    unknown = [name for name in NAMES.value if name not in FAMILIES]
    if unknown or not NAMES.value:
        raise UserError(
            f"--families={','.join(NAMES.value)}: choose among {', '.join(FAMILIES)}",
        )
    if drawn.JUDGE.value is None:
        raise UserError("compare needs --judge, a run of experiments.classifier")
    for flag in (*drawn.DRAWING, *drawn.OF_IMAGES, drawn.CHOSEN):
        if flag.present:
            raise UserError(
                f"--{flag.name} does nothing here, where families draw in their own ways"
            )
    cpu_devices.split_cpu(cpu_devices.cores())  # before JAX looks for devices
    out = pathlib.Path(OUT.value).absolute()
    begun = planned_before(out)
    judge = runs.load(drawn.JUDGE.value, Classification)
    # Or the judge, or --num, would be refused after the first training.
    training = runs.Training(dataset=DATASET.value, image_size=IMAGE_SIZE.value)
    check_size(judge, training)
    bench = drawn.set_up(judge)
    drawn.check_data(training, bench.opinion, bench.floor)
    families = {name: FAMILIES[name].fitted(judge.task.image_shape[0]) for name in NAMES.value}
    plan = planned(out, begun, families)
    found: dict[str, list[Cell]] = {name: [] for name in families}
    for seed in range(SEEDS.value):
        folders = trained(out, seed, plan, families)
        # One after another when nothing else runs, so that their times compare.
        for (name, family), folder in zip(families.items(), folders, strict=True):
            found[name].append(measured(folder, family))
            save(out, plan.settings, found)
    print(table(found))
    print(f"in {out}")


def check_size(judge: Run[Classification], training: runs.Training) -> None:
    """Raises UserError for a judge of images of another size than those to learn."""
    forms = training.open("train", held_out.DATA_DIR.value).image_shape, judge.task.image_shape
    if forms[0] != forms[1]:
        learnt, known = ("x".join(map(str, form)) for form in forms)
        raise UserError(
            f"--dataset={DATASET.value} has images of {learnt} and the judge knows {known}: "
            "train a judge with this --dataset and --image_size"
        )


def planned_before(out: pathlib.Path) -> Budget:
    """The plan in the folder, or an empty one. Raises UserError for a folder of other flags."""
    path = out / PLAN
    settings = {
        "dataset": DATASET.value, "image_size": IMAGE_SIZE.value, "minutes": MINUTES.value,
        "num": held_out.NUM.value, "judge": drawn.JUDGE.value, "jobs": JOBS.value,
        "seed": held_out.SEED.value, "cpu_devices": devices_each(),
    }  # fmt: skip
    steps: dict[str, list[int]] = {}
    if path.exists():
        saved = json.loads(path.read_text())
        for name, value in settings.items():
            before = saved["settings"].get(name)
            if before != value:
                raise UserError(
                    f"{path} was made with --{name}={before}, and this is --{name}={value}: "
                    "use that, or another --out"
                )
        steps = saved["steps"]
    return Budget(settings, steps)


def planned(out: pathlib.Path, begun: Budget, families: Mapping[str, Family]) -> Budget:
    """The plan, with the steps of all families, in the folder too."""
    steps = dict(begun.steps)
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in families if name not in steps]
    # Beside each other, as they will train.
    with ThreadPoolExecutor(JOBS.value) as pool:
        counts = pool.map(affordable, names, [families[name] for name in names])
        for name in tqdm.tqdm(names, "trials", file=sys.stderr, disable=None):
            steps[name] = next(counts)
            plan = Budget(begun.settings, steps)
            write_text(out / PLAN, json.dumps(dataclasses.asdict(plan), indent=2) + "\n")
    return Budget(begun.settings, steps)


def affordable(name: str, family: Family) -> list[int]:
    """The steps of a family's stages that their shares of the time allow, by a trial of all.

    Raises UserError where that is next to none.
    """
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        before: pathlib.Path | None = None
        for i, stage in enumerate(family.stages):
            run = pathlib.Path(folder) / str(i)
            # Twice: what the first compiles is at hand for the second, as for each seed.
            program(stage, run / "first", before, TRIED, 0)
            ended = program(stage, run / "second", before, TRIED, 0)
            rate = rate_of(run / "second", "steps_per_s")
            start = max(ended.seconds - TRIED / rate, 0.0)
            steps.append(int(rate * (60 * MINUTES.value * stage.share - start)))
            before = run / "second"
    if min(steps) < LEAST:
        raise UserError(
            f"--minutes={MINUTES.value:g} are {max(min(steps), 0)} steps for {name} here: give more"
        )
    return steps


def rate_of(run: pathlib.Path, name: str) -> float:
    """The mean of what a run trained in a second, without the first report, which compiles."""
    lines = (run / "speed.jsonl").read_text().splitlines()
    return statistics.fmean(json.loads(line)[name] for line in lines[1:])


def program(
    stage: Stage, run: pathlib.Path, before: pathlib.Path | None, steps: int, seed: int
) -> children.Finished:
    """Trains a stage, or goes on with it."""
    data_dir, image_size = held_out.DATA_DIR.value, IMAGE_SIZE.value
    arguments = (
        *stage.flags, *(flag.format(steps=steps) for flag in stage.pictures),
        f"--dataset={DATASET.value}", "--warmup_steps=100", f"--steps={steps}", f"--seed={seed}",
        f"--log_every={min(20, steps // 2)}", f"--checkpoint_every={max(1, steps // 4)}",
        f"--cpu_devices={devices_each()}", f"--workdir={run}",
        *([] if before is None else [f"--{stage.before}={before}"]),
        *([] if data_dir is None else [f"--data_dir={data_dir}"]),
        *([] if image_size is None else [f"--image_size={image_size}"]),
    )  # fmt: skip
    return children.run(f"experiments.{stage.program}", *arguments, cores=cores_each())


def cores_each() -> int:
    """Of those there are, for each of --jobs."""
    return max(1, cpu_devices.cores() // JOBS.value)


def trained(
    out: pathlib.Path, seed: int, plan: Budget, families: Mapping[str, Family]
) -> list[pathlib.Path]:
    """The folders of all families' cells of a seed, so many trained at a time."""

    def cell(name: str) -> pathlib.Path:
        folder = out / "cells" / name / f"seed_{seed}"
        train(folder, families[name], seed, plan.steps[name])
        return folder

    with ThreadPoolExecutor(JOBS.value) as pool:
        cells = pool.map(cell, families)
        count = len(families)
        return list(tqdm.tqdm(cells, f"seed {seed}", count, file=sys.stderr, disable=None))


def devices_each() -> int:
    """That each training makes of its cores: --cpu_devices, or one a core."""
    return cpu_devices.CPU_DEVICES.value or cores_each()


def train(folder: pathlib.Path, family: Family, seed: int, steps: list[int]) -> None:
    """Trains the stages of a cell that are not trained; what that took is in training.json."""
    path = folder / "training.json"
    if path.exists():
        return
    before: pathlib.Path | None = None
    seconds, peak = 0.0, 0
    for i, (stage, count) in enumerate(zip(family.stages, steps, strict=True)):
        ended = program(stage, folder / f"stage_{i}", before, count, seed)
        seconds, peak = seconds + ended.seconds, max(peak, ended.peak_bytes)
        before = folder / f"stage_{i}"
    values = {
        "seconds": seconds, "peak_bytes": peak, "steps": steps,
        "images_per_second": rate_of(folder / f"stage_{len(steps) - 1}", "images_per_s"),
    }  # fmt: skip
    write_text(path, json.dumps(values) + "\n")


def measured(folder: pathlib.Path, family: Family) -> Cell:
    """What a cell's images are like and how fast they come, unless that was measured before."""
    path = folder / "cell.json"
    if path.exists():
        return Cell(**json.loads(path.read_text()))
    last: Run[Any] = runs.load(folder / f"stage_{len(family.stages) - 1}")
    leaves = jax.tree.leaves([component.params for component in last.components.values()])
    parameters = sum(leaf.size for leaf in leaves)
    bench = drawn.set_up(last)
    draws = []
    for i, way in enumerate(family.draws):
        images, labels, rate = draw(last, way, bench.num)
        seen = bench.compare(bench.see(images, labels))
        told = {"sampler": way.sampler, "steps": way.steps, "images_per_second": rate}
        draws.append({**told, "samples": seen["samples"], "real": seen["real"]})
        np.savez_compressed(folder / f"drawn_{i}.npz", images=images[:40])
    training = json.loads((folder / "training.json").read_text())
    read = partial(held_out.of_run, last.config, most=OF_BITS)
    bits = bits_of(last, read, held_out.SEED.value)
    cell = Cell(family.title, str(folder), parameters, training, draws, bits)
    write_text(path, json.dumps(dataclasses.asdict(cell)) + "\n")
    return cell


def draw(run: Run[Any], way: Drawn, num: int) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Images, the classes asked for, and the images a second once all is compiled."""
    classes = getattr(getattr(run.task, "condition", None), "classes", None)
    labels = None if classes is None else np.arange(num) % classes
    options: dict[str, Any] = {"num": num, "batch_size": held_out.BATCH_SIZE.value}
    if way.steps is not None:
        options |= {"labels": labels, "steps": way.steps}
    if way.sampler is not None:
        options["sampler"] = way.sampler
    key = jax.random.key(held_out.SEED.value)
    run.sample(key, **{**options, "num": options["batch_size"]})  # compiles
    start = time.perf_counter()
    images = to_uint8(np.asarray(run.sample(key, **options)))
    return images, labels, num / (time.perf_counter() - start)


if __name__ == "__main__":
    command.run(main)

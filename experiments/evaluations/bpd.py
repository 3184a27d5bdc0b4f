"""How likely a run finds held-out images, in bits a number of theirs."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import tqdm

from diffjax.data.iterate import Batch
from diffjax.errors import UserError
from diffjax.likelihood.measure import Effort, Estimate, estimate, make_measure
from diffjax.runs import Run
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.tasks.distillation import Distillation
from experiments.evaluations.held_out import BATCH_SIZE, SEED
from experiments.evaluations.saved import save
from experiments.flags import kinds

BPD_STEPS = kinds.define_integer(
    "bpd_steps", None, "bpd: steps of the discrete bound, by default the schedule's", lower_bound=1
)
BPD_DRAWS = kinds.define_integer(
    "bpd_draws", 25, "bpd: times that a bound is seen at, of each image twice", lower_bound=1
)
ODE_STEPS = kinds.define_integer(
    "ode_steps", 20, "bpd: steps of the probability flow, of four evaluations", lower_bound=1
)
PROBES = kinds.define_integer(
    "probes", 1, "bpd: probes of the flow's divergence, of each image twice", lower_bound=1
)
OWN = (BPD_STEPS, BPD_DRAWS, ODE_STEPS, PROBES)


def check(task: DenoiserTask) -> None:
    """Raises UserError for a run whose network has no likelihood of images."""
    if not task.space.limit:
        raise UserError("bpd is of images, and this run knows latents: it has none to tell")
    if isinstance(task, Distillation) and task.consistent:
        raise UserError(
            f"bpd has no meaning for a student of {task.method}, which tells where noise "
            "ends up, not what image to expect in it: measure its teacher"
        )


def tell_bits(run: Run[DenoiserTask], real: Batch, path: pathlib.Path) -> None:
    """Computes the images' bits/dim, saves and prints them."""
    steps = BPD_STEPS.value or run.task.process.schedule.steps
    effort = Effort(steps, BPD_DRAWS.value, ODE_STEPS.value, PROBES.value)
    denoiser, cond = run[DENOISER], run.task.condition.of_batch(jax.tree.map(jnp.asarray, real))
    tell = make_measure(denoiser.model.apply, run.task.process, denoiser.params, effort)

    def progress(work: list[Any]) -> Iterable[Any]:
        return tqdm.tqdm(work, "bits/dim", file=sys.stderr, disable=None, leave=False)

    values = tell(real["image"], cond, SEED.value, BATCH_SIZE.value, progress)
    found = {name: estimate(bits) for name, bits in values.items()}
    said = {name: value._asdict() for name, value in found.items()}
    num = len(real["image"])
    about = {"num": num, "step": run.step, "seed": SEED.value, **dataclasses.asdict(effort)}
    saved = save(path, {"bpd": {**about, **said}})
    for row in bits_table(found, steps):
        print("{:<36}{:>10}{:>10}{:>14}".format(*row))
    print(f"{num} held-out images, step {run.step}, {saved}")


def bits_table(found: dict[str, Estimate], steps: int) -> list[tuple[str, str, str, str]]:
    """Title, mean, its standard error, and of that what is the draws'."""
    titles = {
        "discrete total": f"bound of {steps} steps",
        "continuous total": "bound of infinitely many steps",
        "flow": "probability flow",
    }
    rows = [("bits/dim", "mean", "error", "draws' alone")]
    for name, value in found.items():
        mean, error, of_draws = (f"{number:.4f}" for number in value)
        rows.append((titles.get(name, f"  {name.partition(' ')[2]}"), mean, error, of_draws))
    return rows

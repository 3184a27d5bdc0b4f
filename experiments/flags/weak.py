"""The flags of autoguidance: a worse run, whose prediction images are guided away from."""

import dataclasses

from diffjax import runs, spec
from diffjax.errors import UserError
from diffjax.runs import Run
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from experiments.flags import kinds

WEAK = kinds.define_path(
    "weak", None, "the folder of a worse run, whose prediction to go away from (autoguidance)"
)
WEAK_STEP = kinds.define_integer(
    "weak_step", None, "of --weak, a run that was trained with --averages: as it was at this step; "
    "it may be the run itself", lower_bound=1,
)  # fmt: skip
LENGTH = 0.05  # of the average that stands for the weights of that step
# What two runs must share for one to be guided away from the other.
PROCESS = (
    "image_shape", "space", "schedule", "target", "sigma_data", "learned_variance", "consistent",
)  # fmt: skip


def load(task: DenoiserTask) -> Run[DenoiserTask] | None:
    """The run of --weak; None without it. Raises UserError where it is not another of the kind."""
    folder = WEAK.value
    if folder is None:
        if WEAK_STEP.value is not None:
            raise UserError("--weak_step does nothing without --weak")
        return None
    weak = runs.load(folder, DenoiserTask)
    for what in PROCESS:
        own, other = getattr(task, what), getattr(weak.task, what)
        if own != other:
            raise UserError(f"--weak={folder} has {what}={other} and --run {own}: they must agree")
    if weak.task.process.bind(weak[DENOISER].params) is not weak.task.process:
        raise UserError(f"--weak={folder} has learnt a schedule of its own: choose another run")
    own, other = task.condition, weak.task.condition
    alike = (dataclasses.replace(one, drop=0.0).named(()) for one in (own, other))
    if other.batch_keys and (len({*alike}) > 1 or not own.fits(other.names)):
        raise UserError(
            f"--weak={folder} is conditioned on {spec.render(other)} and --run on "
            f"{spec.render(own)}: they must agree"
        )
    return weak if WEAK_STEP.value is None else weak.averaged(LENGTH, WEAK_STEP.value)

"""Trains a student to draw in a few steps, or in one, what a run of experiments.ddpm draws in many.

python -m experiments.distill --teacher=RUN --method=progressive --student_steps=8
A progressive student is the next one's teacher: 8 steps, then 4, 2 and 1, a run each.
"""

import typing
from typing import Any

from absl import flags

import diffjax.samplers
import diffjax.time_laws
import diffjax.weightings
from diffjax import runs, spec
from diffjax.data import Records
from diffjax.errors import UserError, listed
from diffjax.samplers.consistency import Consistency
from diffjax.samplers.ddim import DDIM
from diffjax.tasks.denoisers import DENOISER, DenoiserTask, Pictures
from diffjax.tasks.distillation import CRITIC, Distillation, Method
from diffjax.tasks.upscaling import Upscaling
from diffjax.training.optimizers import two_time_scales
from experiments.flags import caching, kinds, learning, specs
from experiments.start import command

flags.adopt_module_key_flags(learning)
flags.adopt_module_key_flags(caching)
# What a run is, besides learning.IDENTITY.
TEACHER = kinds.define_path(
    "teacher", None, "the folder of the run whose network the student starts from", required=True
)
METHOD = flags.DEFINE_enum(
    "method", "progressive", list(typing.get_args(Method)), "what the student learns by"
)
STUDENT_STEPS = kinds.define_integer(
    "student_steps", None,
    "steps that the student draws in: by default 8, of a progressive student's student half as "
    "many as its own, of distribution matching 1, and of a consistency model 2, in its pictures",
    lower_bound=1,
)  # fmt: skip
WEIGHTING = specs.define_spec(
    "weighting", None, diffjax.weightings,
    "progressive: how much each noise level counts, by default truncated_snr",
)  # fmt: skip
INTERVALS = kinds.define_integer(
    "intervals", None, "consistency: pieces that a path is cut in, by default 32", lower_bound=1
)
TIMES = specs.define_spec(
    "times", None, diffjax.time_laws,
    "consistency: how often each of them comes, by default log_normal(mean=-1.1,std=2.0)",
)  # fmt: skip
SOLVER = specs.define_spec(
    "solver", None, diffjax.samplers,
    "consistency_distillation: how the teacher crosses one, by default ddim",
)  # fmt: skip
CRITIC_RATE = kinds.define_number(
    "critic_rate", None, "distribution_matching: the critic's own rate, by default 0.001, where "
    "--learning_rate is the student's", 0,
)  # fmt: skip
# What is shown of it: free to change when the run is taken up again.
SAMPLE_EVERY = kinds.define_integer("sample_every", 1000, "steps to a picture", lower_bound=1)
NUM_SAMPLES = kinds.define_integer("num_samples", 64, "images in a picture", lower_bound=1)
OWN = (
    TEACHER, METHOD, STUDENT_STEPS, WEIGHTING, INTERVALS, TIMES, SOLVER, CRITIC_RATE, SAMPLE_EVERY,
    NUM_SAMPLES, caching.CACHE_DIR,
)  # fmt: skip


def main() -> None:
    with learning.processes():
        records = learning.open_records()
        _, config = runs.open_run(TEACHER.value)
        runs.check_kind(TEACHER.value, config.task, DenoiserTask)
        check_fit(config.task, records)
        task = describe(config.task, student_steps(config.task))
        if task.autoencoder is not None:
            records = caching.latents_of(records, task.autoencoder).load()
        sampler = Consistency() if task.consistent else DDIM()
        shown = Pictures(sampler, None, task.student_steps, NUM_SAMPLES.value, learning.SEED.value)
        text = learning.flags_text("distill", OWN)
        rates = None
        if task.criticised:
            learning.refuse_for_two()
            rates = two_time_scales(
                {DENOISER: learning.LEARNING_RATE.value, CRITIC: task.critic_rate},
                warmup_steps=learning.WARMUP_STEPS.value,
            )
        learning.train(
            task, records, text, shown, SAMPLE_EVERY.value, optimizer=rates,
            steady=task.criticised,
        )  # fmt: skip


def check_fit(teacher: DenoiserTask, records: Records) -> None:
    """Raises UserError for a teacher of other images, or one that a student cannot learn from."""
    dataset, classes = learning.DATASET.value, teacher.condition.classes
    if isinstance(teacher, Upscaling):
        raise UserError(
            f"--teacher={TEACHER.value} makes images larger, which no student learns: give a run "
            "of experiments.ddpm"
        )
    if teacher.image_shape != records.image_shape:
        drawn, found = ("x".join(map(str, c.image_shape)) for c in (teacher, records))
        raise UserError(
            f"--teacher={TEACHER.value} draws images of {drawn}, --dataset={dataset} has {found}: "
            "give the teacher's --dataset and --image_size"
        )
    if classes not in (None, records.num_classes):
        raise UserError(
            f"--teacher={TEACHER.value} knows {classes} classes, --dataset={dataset} "
            f"has {records.num_classes or 'none'}: give the teacher's --dataset"
        )
    if not teacher.condition.fits(records.class_names):
        raise UserError(
            f"--teacher={TEACHER.value} knows the classes {listed(teacher.condition.names)}, "
            f"--dataset={dataset} has {listed(records.class_names)}: give the teacher's"
        )
    if teacher.consistent:
        raise UserError(
            f"--teacher={TEACHER.value} is a consistency model, which has no path to follow: "
            "give the run that it was made from"
        )
    if isinstance(teacher, Distillation) and METHOD.value != "progressive":
        raise UserError(
            f"--teacher={TEACHER.value} is a progressive student and knows "
            f"{teacher.student_steps} times: give --method={METHOD.value} the run that "
            "it was made from"
        )


def student_steps(teacher: DenoiserTask) -> int:
    """The steps that the student draws in.

    A progressive student knows the times of its own steps alone: as a teacher it must draw in twice
    its student's. Raises UserError where it does not.
    """
    asked = STUDENT_STEPS.value
    if METHOD.value == "distribution_matching":
        return asked or 1
    if METHOD.value != "progressive":
        return asked or 2
    if not isinstance(teacher, Distillation):
        return asked or 8
    its = teacher.student_steps
    if its % 2:
        raise UserError(f"--teacher={TEACHER.value} draws in {its} steps, which cannot be halved")
    if asked not in (None, its // 2):
        raise UserError(
            f"--student_steps={asked}: --teacher={TEACHER.value} draws in {its}, so choose "
            f"{its // 2} or leave it out"
        )
    return its // 2


def describe(teacher: DenoiserTask, steps: int) -> Distillation:
    """The student's task: the teacher's network and process, and what it is to learn.

    The teacher is named by its weights, so that it may be moved but not trained further. Raises
    UserError for a flag of another method.
    """
    given: dict[str, Any] = {}
    for number in (INTERVALS, CRITIC_RATE):
        if number.value is not None:
            given[number.name] = number.value
    for flag, package in (
        (WEIGHTING, diffjax.weightings), (TIMES, diffjax.time_laws), (SOLVER, diffjax.samplers)
    ):  # fmt: skip
        if flag.value is not None:
            defaults = {"sigma_data": teacher.sigma_data}
            given[flag.name] = spec.build(flag.value, package, defaults)
    return Distillation(
        model=teacher.model,
        image_shape=teacher.image_shape,
        schedule=teacher.schedule,
        target=teacher.target,
        condition=teacher.condition,
        space=teacher.space,
        autoencoder=teacher.autoencoder,
        sigma_data=teacher.sigma_data,
        learned_variance=teacher.learned_variance,
        teacher=runs.source_of(TEACHER.value, DENOISER),
        method=typing.cast(Method, METHOD.value),
        student_steps=steps,
        **given,
    )


if __name__ == "__main__":
    command.run(main)

"""Trains a student to draw in a few steps, or in one, what a run of experiments.ddpm draws in many.

python -m experiments.distill --teacher=RUN --method=progressive --student_steps=8
A progressive student is the next one's teacher: 8 steps, then 4, 2 and 1, a run each.
"""

import typing
from typing import Any

import jax
from absl import flags
from flax import linen as nn

import diffjax.samplers
import diffjax.time_laws
import diffjax.weightings
from diffjax import spec
from diffjax.checksum import checksum
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.guidance import clip_x0
from diffjax.objectives.consistency import consistency_loss
from diffjax.objectives.progressive import progressive_loss
from diffjax.objectives.teacher import Teacher
from diffjax.process import Process
from diffjax.samplers.consistency import Consistency
from diffjax.samplers.ddim import DDIM
from diffjax.trained import Trained, build, load
from diffjax.training.run import Objective, RunConfig
from diffjax.training.step import LossFn
from diffjax.typing import Cond, Denoiser, Params
from experiments import training
from experiments.flags import specs
from experiments.pictures import make_picture
from experiments.start import command

flags.adopt_module_key_flags(training)
# What a run is, besides training.IDENTITY.
TEACHER = flags.DEFINE_string(
    "teacher", None, "the folder of the run whose network the student starts from", required=True
)
METHOD = flags.DEFINE_enum(
    "method", "progressive", list(typing.get_args(Objective)), "what the student learns by"
)
STUDENT_STEPS = flags.DEFINE_integer(
    "student_steps", None,
    "steps that the student draws in: by default 8, of a progressive student's student half as "
    "many as its own, and of a consistency model 2, in its pictures",
    lower_bound=1,
)  # fmt: skip
WEIGHTING = specs.define_spec(
    "weighting", None, diffjax.weightings,
    "progressive: how much each noise level counts, by default truncated_snr",
)  # fmt: skip
INTERVALS = flags.DEFINE_integer(
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
# What is shown of it: free to change when the run is taken up again.
SAMPLE_EVERY = flags.DEFINE_integer("sample_every", 1000, "steps to a picture", lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "images in a picture", lower_bound=1)
OWN = (
    TEACHER, METHOD, STUDENT_STEPS, WEIGHTING, INTERVALS, TIMES, SOLVER, SAMPLE_EVERY, NUM_SAMPLES,
)  # fmt: skip
# The flags that a method has, and what they are where they are not given.
ON_PATH = {"intervals": 32, "times": "log_normal(mean=-1.1,std=2.0)"}
OF_METHOD: dict[str, dict[str, Any]] = {
    "progressive": {"weighting": "truncated_snr"},
    "consistency_distillation": {**ON_PATH, "solver": "ddim"},
    "consistency_training": ON_PATH,
}


def main() -> None:
    with training.processes():
        records = training.open_records()
        teacher = load(TEACHER.value)
        check_fit(teacher, records)
        steps = student_steps(teacher.config)
        config = describe(teacher, steps)
        model, process = build(config)
        start = jax.device_get(teacher.params)
        loss_fn = make_loss(config, model, process.bind(start), frozen(teacher, start), steps)
        with training.run_folder(config, training.flags_text("distill", OWN)) as run:
            sampler = Consistency() if config.consistent else DDIM()
            task = training.Task(
                lambda key: start,
                loss_fn,
                ("image",) if config.num_classes is None else ("image", "label"),
                make_picture(
                    run, config, model, process, sampler, sampler.spacing,
                    steps=steps, num=NUM_SAMPLES.value, seed=training.SEED.value,
                ),
                SAMPLE_EVERY.value,
            )  # fmt: skip
            step = int(training.train_run(run, records, task).step)
        if step < training.STEPS.value:
            training.say(f"stopped at step {step}: the same command goes on from there")
        else:
            training.say(f"done: step {step}, see {run.report}")


def check_fit(teacher: Trained, records: Records) -> None:
    """Raises UserError for a teacher of other images, or one that a student cannot learn from."""
    config, dataset = teacher.config, training.DATASET.value
    if config.image_shape != records.image_shape:
        drawn, found = ("x".join(map(str, c.image_shape)) for c in (config, records))
        raise UserError(
            f"--teacher={TEACHER.value} draws images of {drawn}, --dataset={dataset} has {found}: "
            "give the teacher's --dataset and --image_size"
        )
    if config.num_classes not in (None, records.num_classes):
        raise UserError(
            f"--teacher={TEACHER.value} knows {config.num_classes} classes, --dataset={dataset} "
            f"has {records.num_classes or 'none'}: give the teacher's --dataset"
        )
    if config.consistent:
        raise UserError(
            f"--teacher={TEACHER.value} is a consistency model, which has no path to follow: "
            "give the run that it was made from"
        )
    if config.objective == "progressive" and METHOD.value != "progressive":
        raise UserError(
            f"--teacher={TEACHER.value} is a progressive student and knows "
            f"{config.training['student_steps']} times: give --method={METHOD.value} the run that "
            "it was made from"
        )


def student_steps(teacher: RunConfig) -> int:
    """The steps that the student draws in.

    A progressive student knows the times of its own steps alone: as a teacher it must draw in twice
    its student's. Raises UserError where it does not.
    """
    asked = STUDENT_STEPS.value
    if METHOD.value != "progressive":
        return asked or 2
    if teacher.objective is None:
        return asked or 8
    its = teacher.training["student_steps"]
    if its % 2:
        raise UserError(f"--teacher={TEACHER.value} draws in {its} steps, which cannot be halved")
    if asked not in (None, its // 2):
        raise UserError(
            f"--student_steps={asked}: --teacher={TEACHER.value} draws in {its}, so choose "
            f"{its // 2} or leave it out"
        )
    return its // 2


def describe(teacher: Trained, steps: int) -> RunConfig:
    """The student's config: the teacher's, and what it is to learn.

    The teacher is named by its weights, so that it may be moved but not trained further. Raises
    UserError for a flag of another method.
    """
    own, its = OF_METHOD[METHOD.value], teacher.config
    for flag in (WEIGHTING, INTERVALS, TIMES, SOLVER):
        if flag.value is not None and flag.name not in own:
            raise UserError(f"--method={METHOD.value} knows no --{flag.name}: leave it out")
    given = {name: flags.FLAGS[name].value for name in own}
    learnt = {name: own[name] if value is None else value for name, value in given.items()}
    fields: dict[str, Any] = {}
    for name, package in (("weighting", diffjax.weightings), ("times", diffjax.time_laws)):
        if name in learnt:
            defaults = {"sigma_data": its.sigma_data}
            fields[name] = spec.render(spec.build(learnt.pop(name), package, defaults))
    if METHOD.value == "progressive":
        learnt["student_steps"] = steps
    of_teacher = {"teacher_step": teacher.step, "teacher_sha256": checksum(teacher.params)}
    return RunConfig(
        experiment="distill",
        model=its.model,
        image_shape=its.image_shape,
        num_classes=its.num_classes,
        training={**training.identity(), **learnt, **of_teacher},
        schedule=its.schedule,
        target=its.target,
        objective=typing.cast(Objective, METHOD.value),
        sigma_data=its.sigma_data,
        learned_variance=its.learned_variance,
        **fields,
    )


def frozen(teacher: Trained, params: Params) -> Teacher:
    """The teacher as it is drawn from: its images kept in [-1, 1].

    Its weights lie on the host: as constants of the compiled step they go to every device.
    """
    process = teacher.process.bind(params)

    def of(cond: Cond) -> Denoiser:
        denoise = process.denoiser(teacher.model.apply, params, cond)
        return clip_x0(denoise, process.schedule)

    return of


def make_loss(
    config: RunConfig, model: nn.Module, process: Process, teacher: Teacher, steps: int
) -> LossFn:
    """What the student learns by; its schedule is the teacher's, and is not learnt further."""
    conditional, own = config.num_classes is not None, config.training
    if config.objective == "progressive":
        weighting = spec.build(config.weighting, diffjax.weightings)
        return progressive_loss(
            process, model.apply, teacher, steps, weighting=weighting, conditional=conditional
        )
    followed: dict[str, Any] = {}
    if config.objective == "consistency_distillation":
        followed = {"teacher": teacher, "solver": spec.build(own["solver"], diffjax.samplers)}
    return consistency_loss(
        process,
        model.apply,
        own["intervals"],
        times=spec.build(config.times, diffjax.time_laws),
        conditional=conditional,
        **followed,
    )


if __name__ == "__main__":
    command.run(main)

"""Trains a denoising diffusion model on images, and draws what it makes.

python -m experiments.ddpm --flagfile=experiments/flagfiles/ddpm_fashion_mnist.flags
python -m experiments.ddpm --flagfile=experiments/flagfiles/course_03.flags      as the course does
"""

import functools
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from absl import flags

import diffjax.models
import diffjax.samplers
import diffjax.schedules
import diffjax.spacings
import diffjax.time_laws
import diffjax.weightings
from diffjax import spec
from diffjax.conditions.base import Condition, Mask
from diffjax.conditions.low_resolution import LowResolution
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.models.backbone import Backbone
from diffjax.models.course_unet import CourseUNet
from diffjax.tasks.denoisers import DenoiserTask, Pictures
from diffjax.tasks.diffusion import OBJECTIVES, Diffusion, Objective
from diffjax.typing import Target
from experiments.flags import kinds, learning, presets, specs
from experiments.start import command

flags.adopt_module_key_flags(learning)
# What a run is, besides learning.IDENTITY.
MODEL = specs.define_spec(
    "model",
    "unet(block_out_channels=(32,64,64),layers_per_block=1,"
    "down_block_types=('DownBlock2D','DownBlock2D','DownBlock2D'),"
    "up_block_types=('UpBlock2D','UpBlock2D','UpBlock2D'),"
    "norm_num_groups=8,attention_head_dim=None)",
    diffjax.models,
    "the network; by default one of a million parameters, for a CPU",
)
SCHEDULE = specs.define_spec("schedule", "linear", diffjax.schedules, "the noise schedule")
TARGET = flags.DEFINE_enum(
    "target", "eps", list(typing.get_args(Target)), "what the network predicts"
)
SIGMA_DATA = kinds.define_number(
    "sigma_data", 0.5, "the images' standard deviation, where target or weighting is edm"
)
LEARNED_VARIANCE = flags.DEFINE_boolean(
    "learned_variance", False, "the network, of twice the channels, tells each step's variance"
)
LOSS = flags.DEFINE_enum(
    "loss", "denoising", OBJECTIVES,
    "what is minimised: the target's error; that and, for a learnt variance, a little of the "
    "bound; the bound of T steps; that of infinitely many, which a learnt schedule needs; a "
    "flow's average velocity, for steps of any length, by its derivative or by halves of steps; or "
    "one image for all times of a path",
)  # fmt: skip
WEIGHTING = specs.define_spec(
    "weighting", "simple", diffjax.weightings, "how much the target's error counts at each noise"
)
TIMES = specs.define_spec(
    "times", None, diffjax.time_laws,
    "how training's times are drawn; by default on the grid, uniform for continuous_vlb, and "
    "logit_normal(mean=-0.4) for mean_flow and shortcut, log_normal(mean=-1.1,std=2) for "
    "consistency",
)  # fmt: skip
OFFSET_NOISE = kinds.define_number(
    "offset_noise", 0.0, "standard deviation of a constant that noise has besides, in each channel"
)
HUBER = kinds.define_number(
    "huber", 0.0, "the error of the target above which it counts linearly; 0 is never"
)
LEARNED_GUIDANCE = kinds.define_number(
    "learned_guidance", 1.0,
    "the scale of guidance that mean_flow and shortcut teach; 1 is none, others need --cond_drop",
)  # fmt: skip
INTERVALS = kinds.define_integer(
    "intervals", 32, "times between which a consistency model is taught to agree", lower_bound=1
)
NUM_CLASSES = kinds.define_count(
    "num_classes", 0,
    f"classes that the network is told of; {kinds.DATA} is those of --dataset, 0 is as --model has "
    "them",
)  # fmt: skip
COND_DROP = kinds.define_number(
    "cond_drop", 0.0, "how often a class is hidden from the network, so that it can be guided"
)
COND_MASK = flags.DEFINE_enum(
    "cond_mask", "sample", ["sample", "element"],
    "what --cond_drop drops: a sample's class, or each number of it, one-hot, by itself",
)  # fmt: skip
COURSE_COMPAT = flags.DEFINE_boolean(
    "course_compat", False,
    "a course_unet with the schedule, time scale, mask and sampling of the course; it sets what is "
    "left out of --schedule, --cond_mask, --sampler, --sample_steps and --model's time_scale",
)  # fmt: skip
# What is shown of it: free to change when the run is taken up again.
SAMPLE_EVERY = kinds.define_integer("sample_every", 1000, "steps to a picture", lower_bound=1)
SAMPLER = specs.define_spec("sampler", "ddim", diffjax.samplers, "how the pictures are drawn")
SAMPLE_STEPS = kinds.define_integer("sample_steps", 50, "its steps", lower_bound=1)
SPACING = specs.define_spec(
    "spacing", None, diffjax.spacings, "its times; by default those it does best on"
)
REMAT = flags.DEFINE_boolean(
    "remat",
    False,
    "compute blocks again for the gradient instead of keeping them: less memory, but not on a CPU",
)
NUM_SAMPLES = kinds.define_integer("num_samples", 64, "images in a picture", lower_bound=1)
OWN = (
    MODEL, SCHEDULE, TARGET, SIGMA_DATA, LEARNED_VARIANCE, LOSS, WEIGHTING, TIMES, OFFSET_NOISE,
    HUBER, LEARNED_GUIDANCE, INTERVALS, NUM_CLASSES, COND_DROP, COND_MASK, COURSE_COMPAT,
    SAMPLE_EVERY, SAMPLER, SAMPLE_STEPS, SPACING, REMAT, NUM_SAMPLES,
)  # fmt: skip
presets.define_preset(
    smoke={
        "batch_size": 16, "steps": 30, "log_every": 10, "checkpoint_every": 30,
        "sample_every": 30, "sample_steps": 10, "num_samples": 20,
    }
)  # fmt: skip
DEFAULT_TIMES = {
    "continuous_vlb": "uniform",
    "mean_flow": "logit_normal(mean=-0.4)",
    "shortcut": "logit_normal(mean=-0.4)",
    "consistency": "log_normal(mean=-1.1,std=2)",
}
COURSE_STEPS = (150, 400)  # of garments and of flowers


def main() -> None:
    with learning.processes():
        repeat_course()
        records = learning.open_records()
        task = describe(records)
        shown = pictures(task)
        learning.train(
            task, records, learning.flags_text("ddpm", OWN), shown, SAMPLE_EVERY.value,
            loss=functools.partial(task.loss, remat=REMAT.value),
        )  # fmt: skip


def pictures(task: DenoiserTask) -> Pictures:
    """How the flags have the pictures drawn. Raises UserError for a sampler that cannot draw."""
    sampler = spec.build(SAMPLER.value, diffjax.samplers)
    sampler.check(task.process)
    return Pictures(
        sampler, specs.spacing_of(SPACING.value, sampler), SAMPLE_STEPS.value, NUM_SAMPLES.value,
        learning.SEED.value,
    )  # fmt: skip


def repeat_course() -> None:
    """Sets the flags that --course_compat speaks for. Raises UserError for one that contradicts."""
    if not COURSE_COMPAT.value:
        return
    settle(SCHEDULE, [f"linear(steps={steps})" for steps in COURSE_STEPS], diffjax.schedules)
    settle(TARGET, ["eps"])
    settle(SAMPLER, ["ddpm(variance='previous')"], diffjax.samplers)
    settle(SAMPLE_STEPS, [schedule_steps()])
    if COND_DROP.value:
        settle(COND_MASK, ["element"])


def set_unit_variance() -> None:
    """The default of --sigma_data where x0 are latents, which are scaled to unit variance."""
    flags.FLAGS.set_default(SIGMA_DATA.name, 1.0)


def settle(
    flag: flags.FlagHolder[Any], legal: list[Any], package: ModuleType | None = None
) -> None:
    """Gives a flag that was left out the first of the values that --course_compat allows."""
    if not flag.present:
        flags.FLAGS[flag.name].value = legal[0]
    given = flag.value if package is None else spec.render(spec.build(flag.value, package))
    if given not in legal:
        choices = " or ".join(map(str, legal))
        raise UserError(
            f"--course_compat stands for --{flag.name}={choices}, not {flag.value}: leave one out"
        )


def describe(records: Records) -> Diffusion:
    """This run's task: the flags, and what follows from the data."""
    return task_of(records, records.image_shape)


def task_of(records: Records, shape: tuple[int, int, int], **options: Any) -> Diffusion:
    """The task in a space where x0 has this shape; `options`: of its space."""
    model = fitted_model(records, shape)
    condition = condition_of(model, records)
    conditioned = model.conditioned_on(condition)
    return Diffusion(model=conditioned, condition=condition, **described(records), **options)


def described(records: Records) -> dict[str, Any]:
    """The task's options besides network and condition."""
    times = TIMES.value or DEFAULT_TIMES.get(LOSS.value, "grid")
    sigma_data = {"sigma_data": SIGMA_DATA.value}
    return {
        "image_shape": records.image_shape,
        "schedule": spec.build(SCHEDULE.value, diffjax.schedules),
        "target": typing.cast(Target, TARGET.value),
        "sigma_data": SIGMA_DATA.value,
        "learned_variance": LEARNED_VARIANCE.value,
        "objective": typing.cast(Objective, LOSS.value),
        "weighting": spec.build(WEIGHTING.value, diffjax.weightings, sigma_data),
        "times": spec.build(times, diffjax.time_laws),
        "offset_noise": OFFSET_NOISE.value,
        "huber": HUBER.value,
        "learned_guidance": LEARNED_GUIDANCE.value,
        "intervals": INTERVALS.value,
    }


def fitted_model(
    records: Records, shape: tuple[int, int, int], told: Mapping[str, Any] | None = None
) -> Backbone:
    """The network of --model, fitted to x0 of this shape; `told`: options of what it is told."""
    height, width, channels = shape
    out_channels = 2 * channels if LEARNED_VARIANCE.value else channels
    classes = asked_classes(records)
    defaults: dict[str, Any] = {
        "num_class_embeds": classes,
        "num_embeds_ada_norm": classes,  # of a DiT: None leaves classes out
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": out_channels,
        **(told or {}),
    }
    if COURSE_COMPAT.value:
        defaults["time_scale"] = schedule_steps()
    model = spec.build(MODEL.value, diffjax.models, defaults)
    if not isinstance(model, Backbone):
        raise UserError(f"--model={MODEL.value} predicts no noise: choose a backbone")
    if getattr(model, "out_channels", out_channels) != out_channels:
        raise UserError(
            f"--model has out_channels={model.out_channels}, where images of {channels} channels "
            f"need {out_channels}{' with --learned_variance' * LEARNED_VARIANCE.value}: "
            "leave it out"
        )
    _check_course(model)
    return model


def asked_classes(records: Records) -> int | None:
    """How many classes --num_classes asks for. Raises UserError where the data have none."""
    if NUM_CLASSES.value != kinds.DATA:
        return NUM_CLASSES.value or None
    if records.num_classes is None:
        raise UserError(
            f"--num_classes={kinds.DATA}, and {learning.DATASET.value} has no classes: "
            "pass --num_classes=0"
        )
    return records.num_classes


def condition_of(model: Backbone, records: Records) -> Condition:
    """What the network is told. Raises UserError where the flags or the data say otherwise."""
    condition = model.takes(COND_DROP.value, typing.cast(Mask, COND_MASK.value))
    if isinstance(condition, LowResolution):
        raise UserError(
            f"--model={MODEL.value} makes images larger: train it by experiments.upscaler"
        )
    classes, asked = condition.classes, asked_classes(records)
    if asked not in (None, classes):
        raise UserError(
            f"--num_classes={NUM_CLASSES.value} asks for {asked}, and --model takes "
            f"{classes or 'no'} classes: leave one of the two out"
        )
    if classes and classes != records.num_classes:
        raise UserError(
            f"--model has {classes} classes, but {learning.DATASET.value} has "
            f"{records.num_classes or 'no'} classes: leave it out, and pass "
            f"--num_classes={kinds.DATA if records.num_classes else 0}"
        )
    for key in condition.batch_keys:
        if key != "label" and key not in records[0]:
            raise UserError(
                f"--model={MODEL.value} is conditioned on a {key} per image, and "
                f"{learning.DATASET.value} has none: give it num_class_embeds"
            )
    return condition.named(records.class_names)


def _check_course(model: Backbone) -> None:
    """Refuses a network that --course_compat does not stand for."""
    if COURSE_COMPAT.value and not isinstance(model, CourseUNet):
        raise UserError(f"--course_compat is for a course_unet, not --model={MODEL.value}")
    if isinstance(model, CourseUNet) and COURSE_COMPAT.value:
        steps = schedule_steps()
        if model.time_scale != steps:
            raise UserError(
                f"--course_compat stands for time_scale={steps}, as many as --schedule has "
                f"steps, and --model has {model.time_scale}: leave it out"
            )


def schedule_steps() -> int:
    """How many steps --schedule has."""
    return spec.build(SCHEDULE.value, diffjax.schedules).steps


if __name__ == "__main__":
    command.run(main)

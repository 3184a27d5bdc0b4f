"""Trains a denoising diffusion model on images, and draws what it makes.

python -m experiments.ddpm --flagfile=experiments/flagfiles/ddpm_fashion_mnist.flags
python -m experiments.ddpm --flagfile=experiments/flagfiles/course_03.flags      as the course does
"""

import inspect
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

from absl import flags
from flax import linen as nn

import diffjax.models
import diffjax.samplers
import diffjax.schedules
import diffjax.spacings
import diffjax.time_laws
import diffjax.weightings
from diffjax import spec
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.models.course_unet import CourseUNet
from diffjax.objectives.denoising import denoising_loss
from diffjax.objectives.noising import masked_elements
from diffjax.objectives.variational import continuous_vlb_loss, hybrid_loss, vlb_loss
from diffjax.process import Process
from diffjax.trained import build, init_params
from diffjax.training.run import LossName, RunConfig
from diffjax.training.step import LossFn
from diffjax.typing import Target
from experiments import training
from experiments.flags import presets, specs
from experiments.pictures import make_picture
from experiments.start import command

flags.adopt_module_key_flags(training)
LOSSES: dict[LossName, Callable[..., LossFn]] = {
    "denoising": denoising_loss,
    "hybrid": hybrid_loss,
    "vlb": vlb_loss,
    "continuous_vlb": continuous_vlb_loss,
}
# What a run is, besides training.IDENTITY.
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
SIGMA_DATA = flags.DEFINE_float(
    "sigma_data", 0.5, "the images' standard deviation, where target or weighting is edm"
)
LEARNED_VARIANCE = flags.DEFINE_boolean(
    "learned_variance", False, "the network, of twice the channels, tells each step's variance"
)
LOSS = flags.DEFINE_enum(
    "loss", "denoising", list(LOSSES),
    "what is minimised: the target's error; that and, for a learnt variance, a little of the "
    "bound; the bound of T steps; that of infinitely many, which a learnt schedule needs",
)  # fmt: skip
WEIGHTING = specs.define_spec(
    "weighting", "simple", diffjax.weightings, "how much the target's error counts at each noise"
)
TIMES = specs.define_spec(
    "times", None, diffjax.time_laws,
    "how training's times are drawn; by default on the grid, or uniform for continuous_vlb",
)  # fmt: skip
OFFSET_NOISE = flags.DEFINE_float(
    "offset_noise", 0.0, "standard deviation of a constant that noise has besides, in each channel"
)
HUBER = flags.DEFINE_float(
    "huber", 0.0, "the error of the target above which it counts linearly; 0 is never"
)
NUM_CLASSES = flags.DEFINE_integer(
    "num_classes", None, "classes that the network is told of; by default as --model has it", 1
)
COND_DROP = flags.DEFINE_float(
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
SAMPLE_EVERY = flags.DEFINE_integer("sample_every", 1000, "steps to a picture", lower_bound=1)
SAMPLER = specs.define_spec("sampler", "ddim", diffjax.samplers, "how the pictures are drawn")
SAMPLE_STEPS = flags.DEFINE_integer("sample_steps", 50, "its steps", lower_bound=1)
SPACING = specs.define_spec(
    "spacing", None, diffjax.spacings, "its times; by default those it does best on"
)
REMAT = flags.DEFINE_boolean(
    "remat",
    False,
    "compute blocks again for the gradient instead of keeping them: less memory, but not on a CPU",
)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "images in a picture", lower_bound=1)
OWN = (
    MODEL, SCHEDULE, TARGET, SIGMA_DATA, LEARNED_VARIANCE, LOSS, WEIGHTING, TIMES, OFFSET_NOISE,
    HUBER, NUM_CLASSES, COND_DROP, COND_MASK, COURSE_COMPAT, SAMPLE_EVERY, SAMPLER, SAMPLE_STEPS,
    SPACING, REMAT, NUM_SAMPLES,
)  # fmt: skip
presets.define_preset(
    smoke={
        "batch_size": 16, "steps": 30, "log_every": 10, "checkpoint_every": 30,
        "sample_every": 30, "sample_steps": 10, "num_samples": 20,
    }
)  # fmt: skip
COURSE_STEPS = (150, 400)  # of garments and of flowers


def main() -> None:
    with training.processes():
        repeat_course()
        records = training.open_records()
        config = describe(records)
        model, process = build(config)
        loss_fn = make_loss(config, rematerialised(model) if REMAT.value else model, process)
        sampler = spec.build(SAMPLER.value, diffjax.samplers)
        sampler.check(process)
        with training.run_folder(config, training.flags_text("ddpm", OWN)) as run:
            task = training.Task(
                lambda key: init_params(model, config, key),
                loss_fn,
                ("image",) if config.num_classes is None else ("image", "label"),
                make_picture(
                    run, config, model, process, sampler, specs.spacing_of(SPACING.value, sampler),
                    steps=SAMPLE_STEPS.value, num=NUM_SAMPLES.value, seed=training.SEED.value,
                ),
                SAMPLE_EVERY.value,
            )  # fmt: skip
            step = int(training.train_run(run, records, task).step)
        if step < training.STEPS.value:
            training.say(f"stopped at step {step}: the same command goes on from there")
        else:
            training.say(f"done: step {step}, see {run.report}")


def repeat_course() -> None:
    """Sets the flags that --course_compat speaks for. Raises UserError for one that contradicts."""
    if not COURSE_COMPAT.value:
        return
    _settle(SCHEDULE, [f"linear(steps={steps})" for steps in COURSE_STEPS], diffjax.schedules)
    _settle(TARGET, ["eps"])
    _settle(SAMPLER, ["ddpm(variance='previous')"], diffjax.samplers)
    _settle(SAMPLE_STEPS, [schedule_steps()])
    if COND_DROP.value:
        _settle(COND_MASK, ["element"])


def _settle(
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


def describe(records: Records) -> RunConfig:
    """This run's config: the flags, and what follows from the data."""
    model, classes = describe_model(records)
    mask = {} if COND_MASK.value == "sample" else {COND_MASK.name: COND_MASK.value}
    times = TIMES.value or ("uniform" if LOSS.value == "continuous_vlb" else "grid")
    weighting = spec.build(WEIGHTING.value, diffjax.weightings, {"sigma_data": SIGMA_DATA.value})
    return RunConfig(
        experiment="ddpm",
        model=spec.render(model),
        image_shape=records.image_shape,
        num_classes=classes,
        training={**training.identity(), **mask},
        schedule=spec.render(spec.build(SCHEDULE.value, diffjax.schedules)),
        target=typing.cast(Target, TARGET.value),
        sigma_data=SIGMA_DATA.value,
        learned_variance=LEARNED_VARIANCE.value,
        loss=typing.cast(LossName, LOSS.value),
        weighting=spec.render(weighting),
        times=spec.render(spec.build(times, diffjax.time_laws)),
        offset_noise=OFFSET_NOISE.value,
        huber=HUBER.value,
        cond_drop=COND_DROP.value,
    )


def describe_model(records: Records) -> tuple[nn.Module, int | None]:
    """The network that fits the data, and its number of classes, if it takes any.

    Where classes are dropped it has an embedding more than that, of no class, if it needs one.
    """
    height, width, channels = records.image_shape
    out_channels = 2 * channels if LEARNED_VARIANCE.value else channels
    defaults: dict[str, Any] = {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": out_channels,
    }
    if NUM_CLASSES.value:
        defaults["num_class_embeds"] = NUM_CLASSES.value
    if COURSE_COMPAT.value:
        defaults["time_scale"] = schedule_steps()
    model = spec.build(MODEL.value, diffjax.models, defaults)
    if getattr(model, "out_channels", out_channels) != out_channels:
        raise UserError(
            f"--model has out_channels={model.out_channels}, where images of {channels} channels "
            f"need {out_channels}{' with --learned_variance' * LEARNED_VARIANCE.value}: "
            "leave it out"
        )
    classes = getattr(model, "num_class_embeds", None)
    if NUM_CLASSES.value not in (None, classes):
        raise UserError(
            f"--num_classes={NUM_CLASSES.value}, and --model takes {classes or 'no'} classes: "
            "leave one of the two out"
        )
    if classes and classes != records.num_classes:
        raise UserError(
            f"--model has num_class_embeds={classes}, but {training.DATASET.value} has "
            f"{records.num_classes or 'no'} classes: give it that number, or leave it out"
        )
    one_hot = getattr(model, "one_hot", False)
    _check_condition(model, bool(one_hot and classes))
    if classes and COND_DROP.value and not one_hot:
        model = model.clone(num_class_embeds=classes + 1)
    return model, classes


def _check_condition(model: nn.Module, one_hot: bool) -> None:
    """Refuses a network that is not conditioned as the flags have it."""
    cond_dim = getattr(model, "cond_dim", None)
    if cond_dim is not None:
        raise UserError(
            f"--model has cond_dim={cond_dim}, and these data have labels: give it num_class_embeds"
        )
    if COND_MASK.value == "element" and not (one_hot and COND_DROP.value):
        raise UserError(
            "--cond_mask=element hides numbers of one-hot classes: "
            "choose a course_unet with num_class_embeds, and --cond_drop above 0"
        )
    if COURSE_COMPAT.value and not isinstance(model, CourseUNet):
        raise UserError(f"--course_compat is for a course_unet, not --model={MODEL.value}")
    if COURSE_COMPAT.value and model.time_scale != schedule_steps():
        raise UserError(
            f"--course_compat stands for time_scale={schedule_steps()}, as many as --schedule has "
            f"steps, and --model has {model.time_scale}: leave it out"
        )


def schedule_steps() -> int:
    """How many steps --schedule has."""
    return spec.build(SCHEDULE.value, diffjax.schedules).steps


def rematerialised(model: nn.Module) -> nn.Module:
    """The network that keeps less for the gradient. Raises UserError for one that cannot."""
    if not hasattr(model, "remat"):
        raise UserError(f"--remat: {type(model).__name__} cannot compute its blocks again")
    return model.clone(remat=True)


def make_loss(config: RunConfig, model: nn.Module, process: Process) -> LossFn:
    """What the run minimises. Raises UserError for an option that the loss does not have."""
    by_element = config.training.get(COND_MASK.name) == "element"
    given = {
        "weighting": spec.build(config.weighting, diffjax.weightings),
        "times": spec.build(config.times, diffjax.time_laws),
        "offset_noise": config.offset_noise,
        "huber": config.huber,
        "cond_drop": 0.0 if by_element else config.cond_drop,
    }
    known = {name: inspect.signature(loss).parameters for name, loss in LOSSES.items()}
    options = {}
    for option, value in given.items():
        if option in known[config.loss]:
            options[option] = value
        elif value != known["denoising"][option].default:
            others = " or ".join(name for name, options in known.items() if option in options)
            raise UserError(
                f"--loss={config.loss} knows no --{option}: leave it out, or choose --loss={others}"
            )
    classes = config.num_classes
    loss_fn = LOSSES[config.loss](process, model.apply, num_classes=classes, **options)
    if by_element and classes:
        return masked_elements(loss_fn, classes, config.cond_drop)
    return loss_fn


if __name__ == "__main__":
    command.run(main)

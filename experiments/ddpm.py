"""Trains a denoising diffusion model on images, and draws what it makes.

python -m experiments.ddpm --flagfile=experiments/flagfiles/ddpm_fashion_mnist.flags
"""

import typing
from collections.abc import Callable

import numpy as np
from absl import flags
from flax import linen as nn

import diffjax.models
import diffjax.samplers
import diffjax.schedules
import diffjax.spacings
from diffjax import spec
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.generate import generate, make_draw, times_of
from diffjax.objectives.denoising import denoising_loss
from diffjax.process import Process
from diffjax.report.images import save_film, save_grid
from diffjax.trained import build, init_params
from diffjax.training.run import RunConfig, RunFolder
from diffjax.typing import Params, Target
from experiments import cli, training

flags.adopt_module_key_flags(training)
# What a run is, besides training.IDENTITY.
MODEL = cli.define_spec(
    "model",
    "unet(block_out_channels=(32,64,64),layers_per_block=1,"
    "down_block_types=('DownBlock2D','DownBlock2D','DownBlock2D'),"
    "up_block_types=('UpBlock2D','UpBlock2D','UpBlock2D'),"
    "norm_num_groups=8,attention_head_dim=None)",
    diffjax.models,
    "the network; by default one of a million parameters, for a CPU",
)
SCHEDULE = cli.define_spec("schedule", "linear", diffjax.schedules, "the noise schedule")
TARGET = flags.DEFINE_enum(
    "target", "eps", list(typing.get_args(Target)), "what the network predicts"
)
# What is shown of it: free to change when the run is taken up again.
SAMPLE_EVERY = flags.DEFINE_integer("sample_every", 1000, "steps to a picture", lower_bound=1)
SAMPLER = cli.define_spec("sampler", "ddim", diffjax.samplers, "how the pictures are drawn")
SAMPLE_STEPS = flags.DEFINE_integer("sample_steps", 50, "its steps", lower_bound=1)
SPACING = cli.define_spec(
    "spacing", None, diffjax.spacings, "its times; by default those it does best on"
)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "images in a picture", lower_bound=1)
OWN = (MODEL, SCHEDULE, TARGET, SAMPLE_EVERY, SAMPLER, SAMPLE_STEPS, SPACING, NUM_SAMPLES)


def main() -> None:
    with training.processes():
        records = training.open_records()
        config = describe(records)
        model, process = build(config)
        conditional = config.num_classes is not None
        with training.run_folder(config, training.flags_text("ddpm", OWN)) as run:
            task = training.Task(
                lambda key: init_params(model, config, key),
                denoising_loss(process, model.apply, conditional=conditional),
                ("image", "label") if conditional else ("image",),
                make_picture(run, config, model, process),
                SAMPLE_EVERY.value,
            )
            step = int(training.train_run(run, records, task).step)
        if step < training.STEPS.value:
            training.say(f"stopped at step {step}: the same command goes on from there")
        else:
            training.say(f"done: step {step}, see {run.report}")


def describe(records: Records) -> RunConfig:
    """This run's config: the flags, and what follows from the data."""
    height, width, channels = records.image_shape
    size = height if height == width else (height, width)
    model = spec.build(
        MODEL.value,
        diffjax.models,
        {"sample_size": size, "in_channels": channels, "out_channels": channels},
    )
    conditional = getattr(model, "num_class_embeds", None)
    if conditional and conditional != records.num_classes:
        raise UserError(
            f"--model has num_class_embeds={conditional}, but {training.DATASET.value} has "
            f"{records.num_classes or 'no'} classes: give it that number, or leave it out"
        )
    return RunConfig(
        experiment="ddpm",
        model=spec.render(model),
        image_shape=records.image_shape,
        num_classes=conditional,
        training=training.identity(),
        schedule=spec.render(spec.build(SCHEDULE.value, diffjax.schedules)),
        target=typing.cast(Target, TARGET.value),
    )


def make_picture(
    run: RunFolder, config: RunConfig, model: nn.Module, process: Process
) -> Callable[[int, Params], None]:
    """A function that draws the same noise with the weights it is given: a grid and a film."""
    num = NUM_SAMPLES.value
    labels = None if config.num_classes is None else np.arange(num) % config.num_classes
    sampler = spec.build(SAMPLER.value, diffjax.samplers)
    spacing = cli.spacing_of(SPACING.value, sampler)
    draw = make_draw(model, process, sampler, config.image_shape)

    def picture(step: int, params: Params) -> None:
        times = times_of(process, params, spacing, SAMPLE_STEPS.value)
        images, film = generate(draw, params, training.SEED.value, num, num, times, labels)
        save_grid(run.samples / f"step_{step:08d}.png", images)
        save_film(run.film, film)

    return picture


if __name__ == "__main__":
    cli.run(main)

"""Trains a denoising diffusion model on images, and draws what it makes.

python -m experiments.ddpm --flagfile=experiments/flagfiles/ddpm_fashion_mnist.flags
"""

import typing
from collections.abc import Callable

import jax
import numpy as np
from absl import flags
from flax import linen as nn

import diffjax.data
import diffjax.models
import diffjax.samplers
import diffjax.schedules
from diffjax import spec
from diffjax.errors import UserError
from diffjax.generate import generate, make_draw
from diffjax.objectives.denoising import denoising_loss
from diffjax.process import Process
from diffjax.report.images import save_film, save_grid
from diffjax.trained import build, init_params
from diffjax.training import parallel
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.journal import Journal
from diffjax.training.loop import Plan, train
from diffjax.training.parallel import pmap_steps, replicate
from diffjax.training.run import RunConfig, RunFolder
from diffjax.training.signals import stop_on_signal
from diffjax.training.step import check_batch, init_state, make_optimizer, make_train_step
from diffjax.typing import Params, Target
from experiments import cli

# What a run is: another value is another run.
DATASET = cli.define_spec("dataset", "embedded", diffjax.data, "the images to learn")
DATA_DIR = flags.DEFINE_string("data_dir", None, "where prepared TFDS sets lie")
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "crop to a square and resize to this many pixels", lower_bound=1
)
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
TARGET = flags.DEFINE_enum("target", "eps", ["eps", "x0", "v"], "what the network predicts")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "images a step, all devices", lower_bound=1)
ACCUMULATE = flags.DEFINE_integer(
    "accumulate", 1, "pieces that a device's batch is computed in, to save memory", lower_bound=1
)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 2e-4, "Adam's peak rate", lower_bound=0)
WARMUP_STEPS = flags.DEFINE_integer("warmup_steps", 100, "steps up to that rate", lower_bound=0)
GRAD_CLIP = flags.DEFINE_float("grad_clip", 1.0, "the gradient's largest norm", lower_bound=0)
EMA_DECAY = flags.DEFINE_float(
    "ema_decay", 0.999, "decay of the averaged weights", lower_bound=0, upper_bound=1
)
SEED = flags.DEFINE_integer("seed", 0, "all randomness", lower_bound=0)
# How long it goes on and what is shown of it: free to change when a run is taken up again.
STEPS = flags.DEFINE_integer("steps", 10_000, "train up to this step", lower_bound=1)
LOG_EVERY = flags.DEFINE_integer("log_every", 100, "steps to a line of metrics", lower_bound=1)
CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every", 1000, "steps to a checkpoint", lower_bound=1
)
SAMPLE_EVERY = flags.DEFINE_integer("sample_every", 1000, "steps to a picture", lower_bound=1)
STEPS_PER_DISPATCH = flags.DEFINE_integer(
    "steps_per_dispatch", 1, "steps that an accelerator takes without the host", lower_bound=1
)
SAMPLER = cli.define_spec("sampler", "ddim", diffjax.samplers, "how the pictures are drawn")
SAMPLE_STEPS = flags.DEFINE_integer("sample_steps", 50, "its steps", lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer("num_samples", 64, "images in a picture", lower_bound=1)
WORKDIR = flags.DEFINE_string("workdir", None, "the run's folder; by default under runs/")

IDENTITY = (
    DATASET, IMAGE_SIZE, BATCH_SIZE, ACCUMULATE, LEARNING_RATE, WARMUP_STEPS, GRAD_CLIP, EMA_DECAY,
    SEED,
)  # fmt: skip
FREE = (
    DATA_DIR, STEPS, LOG_EVERY, CHECKPOINT_EVERY, SAMPLE_EVERY, STEPS_PER_DISPATCH, SAMPLER,
    SAMPLE_STEPS, NUM_SAMPLES,
)  # fmt: skip


def main() -> None:
    dataset = spec.build(DATASET.value, diffjax.data, {"data_dir": DATA_DIR.value})
    records = dataset.open("train", IMAGE_SIZE.value)
    check_batch(BATCH_SIZE.value, jax.local_device_count(), ACCUMULATE.value)
    config = describe(records)
    workdir = WORKDIR.value or f"runs/{config.name()}"
    with (
        stop_on_signal() as stopping,
        RunFolder.create(workdir, config, flags_text()) as run,
        Checkpoints(run.checkpoints) as checkpoints,
    ):
        print(f"run folder: {run.path}", flush=True)
        step = train_run(records, config, run, checkpoints, stopping)
    if step < STEPS.value:
        print(f"stopped at step {step}: the same command goes on from there")
    else:
        print(f"done: step {step}, pictures in {run.samples}, the reverse process in {run.film}")


def train_run(
    records: diffjax.data.Records,
    config: RunConfig,
    run: RunFolder,
    checkpoints: Checkpoints,
    stopping: Callable[[], bool],
) -> int:
    """Trains in the run's folder, from its newest checkpoint if it has one; the step reached."""
    model, process = build(config)
    root = jax.random.key(SEED.value)
    tx = make_optimizer(
        LEARNING_RATE.value,
        STEPS.value,
        warmup_steps=WARMUP_STEPS.value,
        grad_clip=GRAD_CLIP.value,
    )
    state = replicate(jax.jit(lambda key: init_state(init_params(model, config, key), tx))(root))
    data = diffjax.data.batches(records, BATCH_SIZE.value, SEED.value)
    window: list[dict[str, float]] = []
    if checkpoints.latest_step() is not None:
        state, position = checkpoints.restore(state)
        data.set_state(position["data"])
        window = position["window"]
        print(*checkpoints.skipped, sep="\n", end="\n" if checkpoints.skipped else "")
        print(f"going on from step {int(state.step)} of {STEPS.value}", flush=True)
    conditional = config.num_classes is not None
    step = make_train_step(
        denoising_loss(process, model.apply, conditional=conditional),
        tx,
        EMA_DECAY.value,
        accumulate=ACCUMULATE.value,
        axis_name=parallel.AXIS,
    )
    plan = Plan(
        STEPS.value,
        LOG_EVERY.value,
        CHECKPOINT_EVERY.value,
        SAMPLE_EVERY.value,
        STEPS_PER_DISPATCH.value,
    )
    with Journal(
        run.path,
        step=int(state.step),
        steps=plan.steps,
        batch_size=BATCH_SIZE.value,
        window=window,
    ) as journal:
        state = train(
            pmap_steps(step),
            state,
            replicate(root),
            data,
            ("image", "label") if conditional else ("image",),
            plan,
            journal,
            checkpoints,
            make_picture(run, config, model, process),
            stopping,
        )
    return int(state.step)


def describe(records: diffjax.data.Records) -> RunConfig:
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
            f"--model has num_class_embeds={conditional}, but {DATASET.value} has "
            f"{records.num_classes or 'no'} classes: give it that number, or leave it out"
        )
    return RunConfig(
        experiment="ddpm",
        model=spec.render(model),
        schedule=spec.render(spec.build(SCHEDULE.value, diffjax.schedules)),
        target=typing.cast(Target, TARGET.value),
        image_shape=records.image_shape,
        num_classes=conditional,
        training={flag.name: flag.value for flag in IDENTITY},
    )


def flags_text() -> str:
    """flags.txt: a flagfile that repeats the run, in a folder of its own."""
    return cli.flag_text(
        [flag.name for flag in (MODEL, SCHEDULE, TARGET, *IDENTITY, *FREE)],
        "python -m experiments.ddpm --flagfile=flags.txt",
    )


def make_picture(run: RunFolder, config: RunConfig, model: nn.Module, process: Process):
    """A function that draws the same noise with the weights it is given: a grid and a film."""
    num = NUM_SAMPLES.value
    labels = None if config.num_classes is None else np.arange(num) % config.num_classes
    sampler = spec.build(SAMPLER.value, diffjax.samplers)
    draw = make_draw(model, process, sampler, config.image_shape, SAMPLE_STEPS.value)

    def picture(step: int, params: Params) -> None:
        images, film = generate(draw, params, SEED.value, num, num, labels)
        save_grid(run.samples / f"step_{step:08d}.png", images)
        save_film(run.film, film)

    return picture


if __name__ == "__main__":
    cli.run(main)

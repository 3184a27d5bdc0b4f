"""Draws images from a trained run.

python -m experiments.sample --run=DIR --num=64 --steps=50 --sampler='ddim(eta=0)' --out=DIR2
"""

import pathlib

import numpy as np
from absl import flags

import diffjax.samplers
import diffjax.spacings
from diffjax import spec
from diffjax.errors import UserError
from diffjax.generate import generate, make_draw, times_of
from diffjax.report.images import save_film, save_grid
from diffjax.trained import load
from experiments import cli

RUN = flags.DEFINE_string("run", None, "the run's folder", required=True)
NUM = flags.DEFINE_integer("num", 64, "images to draw", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 50, "sampling steps", lower_bound=1)
SAMPLER = cli.define_spec("sampler", "ddim(eta=0)", diffjax.samplers, "how they are drawn")
SPACING = cli.define_spec(
    "spacing", None, diffjax.spacings, "its times; by default those the sampler does best on"
)
SEED = flags.DEFINE_integer("seed", 0, "all randomness", lower_bound=0)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "images at a time; changes memory and speed, not the images", lower_bound=1
)
OUT = flags.DEFINE_string("out", None, "the folder to write; by default RUN/samples/SEED")


def main() -> None:
    trained = load(RUN.value)
    out = pathlib.Path(OUT.value or pathlib.Path(RUN.value) / "samples" / f"seed_{SEED.value}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write --out={out}: {error.strerror}") from error
    sampler = spec.build(SAMPLER.value, diffjax.samplers)
    spacing = cli.spacing_of(SPACING.value, sampler)
    draw = make_draw(trained.model, trained.process, sampler, trained.config.image_shape)
    times = times_of(trained.process, trained.params, spacing, STEPS.value)
    classes = trained.config.num_classes
    labels = None if classes is None else np.arange(NUM.value) % classes
    images, film = generate(
        draw, trained.params, SEED.value, NUM.value, BATCH_SIZE.value, times, labels
    )
    np.savez_compressed(out / "samples.npz", images=images)
    save_grid(out / "grid.png", images)
    save_film(out / "trajectory.gif", film)
    print(f"{NUM.value} images of step {trained.step} in {out}")


if __name__ == "__main__":
    cli.run(main)

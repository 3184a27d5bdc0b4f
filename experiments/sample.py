"""Draws images from a trained run.

python -m experiments.sample --run=DIR --num=64 --steps=50 --sampler='ddim(eta=0)' --out=DIR2
python -m experiments.sample --run=DIR --guidance=3 --labels=0,7     of a run with --cond_drop
python -m experiments.sample --run=DIR --task=inpaint --init=PICTURE --mask=left
"""

import pathlib

import numpy as np
from absl import flags

import diffjax.samplers
import diffjax.spacings
from diffjax import spec
from diffjax.display.images import save_film, save_grid
from diffjax.errors import UserError
from diffjax.files import write_whole
from diffjax.generate import generate, make_draw, times_of
from diffjax.trained import load
from experiments.flags import devices, edits, guiding, specs
from experiments.start import command

flags.adopt_module_key_flags(devices)
flags.adopt_module_key_flags(guiding)
flags.adopt_module_key_flags(edits)
RUN = flags.DEFINE_string("run", None, "the run's folder", required=True)
NUM = flags.DEFINE_integer(
    "num", 64, "images to draw; of a --task by default a few of each image", lower_bound=1
)
STEPS = flags.DEFINE_integer("steps", 50, "sampling steps", lower_bound=1)
SAMPLER = specs.define_spec(
    "sampler", "ddim(eta=0)", diffjax.samplers,
    f"how they are drawn; by default ddpm with --task={' or '.join(edits.NOISY)}",
)  # fmt: skip
SPACING = specs.define_spec(
    "spacing", None, diffjax.spacings, "its times; by default those the sampler does best on"
)
SEED = flags.DEFINE_integer("seed", 0, "all randomness", lower_bound=0)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "images at a time; changes memory and speed, not the images", lower_bound=1
)
OUT = flags.DEFINE_string("out", None, "the folder to write; by default in RUN/samples")


def main() -> None:
    devices.split_cpu(devices.cores())
    trained = load(RUN.value)
    task = edits.read(trained)
    num = NUM.value if task is None or NUM.present else task.num
    chosen = guiding.choose(trained, num, None if task is None else task.classes(num))
    sampler = spec.build(edits.sampler_spec(SAMPLER), diffjax.samplers)
    spacing = specs.spacing_of(SPACING.value, sampler)
    times = times_of(trained.process, trained.params, spacing, STEPS.value)
    if task is None:
        networks = {"weak": chosen.weak, "judge": chosen.judge}
        form = trained.config.image_shape
        draw = make_draw(trained.model, trained.process, sampler, form, **networks)
        labels = chosen.labels
    else:
        draw, times = task.draw(trained, sampler, times, num, chosen)
        labels = np.arange(num)
    out = _folder()
    images, film = generate(
        draw,
        trained.params,
        SEED.value,
        num,
        BATCH_SIZE.value,
        times,
        labels,
        chosen.guidance,
    )
    np.savez_compressed(out / "samples.npz", images=images)
    if task is None:
        save_grid(out / "grid.png", images)
    else:
        write_whole(out / "grid.png", lambda part: task.sheet(images).save(part, format="PNG"))
    save_film(out / "trajectory.gif", film)
    print(f"{num} images of step {trained.step} in {out}" + ("" if task is None else task.told))


def _folder() -> pathlib.Path:
    """The folder to write, made."""
    name = f"seed_{SEED.value}" if edits.TASK.value is None else f"{edits.TASK.value}_{SEED.value}"
    out = pathlib.Path(OUT.value or pathlib.Path(RUN.value) / "samples" / name)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write --out={out}: {error.strerror}") from error
    return out


if __name__ == "__main__":
    command.run(main)

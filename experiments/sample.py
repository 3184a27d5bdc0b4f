"""Draws images from a trained run, or from prompts by a folder of Stable Diffusion.

python -m experiments.sample --run=DIR --num=64 --steps=50 --sampler='ddim(eta=0)' --out=DIR2
python -m experiments.sample --run=DIR --guidance=3 --labels=0,7     of a run with --cond_drop
python -m experiments.sample --run=DIR --prompts='red apple' --guidance=3     of text_to_image's
python -m experiments.sample --run=DIR --clip=DIR2 --clip_text='a red heart' --clip_scale=300
python -m experiments.sample --run=DIR --task=inpaint --init=PICTURE --mask=left
python -m experiments.sample --run=DIR --task=direction --negative=3 --labels=7 --guidance=0,1,2
python -m experiments.sample --run=DIR --task=upscale --init=PICTURES     of a run of upscaler
python -m experiments.sample --pipeline=FOLDER --prompt='a red apple' --guidance=7.5 --out=DIR
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

import diffjax.samplers
import diffjax.spacings
from diffjax import runs, spec
from diffjax.checksum import checksum
from diffjax.data.images import to_uint8
from diffjax.display.images import save_film, save_images, save_picture, sheet_of
from diffjax.display.marks import Drawn
from diffjax.errors import UserError
from diffjax.generate import make_draw, times_of
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.trust.credentials import sign
from diffjax.trust.identity import Identity
from diffjax.typing import Cond
from experiments.flags import (
    cpu_devices,
    edits,
    guiding,
    kinds,
    marking,
    out_folder,
    pipeline,
    signing,
    specs,
    watermarking,
)
from experiments.flags.making import Pixels, Wanted, edit_draw
from experiments.start import command

flags.adopt_module_key_flags(cpu_devices)
flags.adopt_module_key_flags(guiding)
flags.adopt_module_key_flags(edits)
flags.adopt_module_key_flags(pipeline)
flags.adopt_module_key_flags(marking)
flags.adopt_module_key_flags(signing)
flags.adopt_module_key_flags(watermarking)
RUN = kinds.define_path("run", None, "the run's folder")
NUM = kinds.define_integer(
    "num", 64, "images to draw; by default a few of each image of a --task, and one per prompt of "
    "a --pipeline", lower_bound=1,
)  # fmt: skip
STEPS = kinds.define_integer(
    "steps", 50, f"sampling steps; by default {pipeline.STEPS} of a --pipeline", lower_bound=1
)
SAMPLER = specs.define_spec(
    "sampler", "ddim(eta=0)", diffjax.samplers,
    f"how they are drawn; by default ddpm with --task={' or '.join(edits.NOISY)} of a run, and a "
    "--pipeline's own scheduler",
)  # fmt: skip
SPACING = specs.define_spec(
    "spacing", None, diffjax.spacings, "its times; by default those the sampler does best on"
)
SEED = kinds.define_seed()
BATCH_SIZE = kinds.define_integer(
    "batch_size", 64, "images at a time, by default 8 of a --pipeline; changes memory and speed, "
    "not the images", lower_bound=1,
)  # fmt: skip
OUT = kinds.define_path("out", None, "the folder to write; by default in RUN/samples")


def main() -> None:
    if (RUN.value is None) == (pipeline.PIPELINE.value is None):
        raise UserError("give --run=DIR, or --pipeline=FOLDER in its place")
    if pipeline.PIPELINE.value is None:
        draw_from_run()
    else:
        draw_from_pipeline()


def draw_from_pipeline() -> None:
    if OUT.value is None:
        raise UserError("--pipeline needs a folder to write: give --out")
    watermarking.check_absent("with --pipeline")
    cpu_devices.split_cpu()
    given: dict[str, Any] = {"sampler": SAMPLER, "steps": STEPS, "batch_size": BATCH_SIZE}
    options = {name: flag.value for name, flag in given.items() if flag.present}
    if SPACING.value is not None:
        options["spacing"] = spec.build(SPACING.value, diffjax.spacings)
    num = NUM.value if NUM.present else None
    signer, out = signing.identity(), checked(pathlib.Path(OUT.value))
    drawn = pipeline.draw(num, key=jax.random.key(SEED.value), **options)
    name, weights = pathlib.Path(pipeline.PIPELINE.value).resolve().name, checksum(drawn.weights)
    made = Made(name, weights, weights)
    write(out, drawn.images, sheet_of(drawn.images, drawn.prompts), made, signer)
    print(f"{len(drawn.images)} images of {pipeline.PIPELINE.value} in {out}")


def draw_from_run() -> None:
    pipeline.check_absent()
    if edits.TASK.value is not None:
        watermarking.check_absent(f"with --task={edits.TASK.value}")
    signer = signing.identity()
    cpu_devices.split_cpu(cpu_devices.cores())
    run = runs.load(RUN.value, DenoiserTask)
    task, params = run.task, run[DENOISER].params
    edit, mark = edits.read(run), watermarking.chosen()
    num = NUM.value if edit is None or NUM.present else edit.num
    own = () if edit is None else (edit.labels(num), edit.scales(num))
    chosen = guiding.choose(run, num, *own)
    sampler = spec.build(edits.sampler_spec(SAMPLER), diffjax.samplers)
    times = times_of(task.process, params, specs.spacing_of(SPACING.value, sampler), STEPS.value)
    wanted = Wanted(run, sampler, times, num, chosen, SEED.value, BATCH_SIZE.value)
    cond: Cond
    if edit is not None:
        draw, times = edit.draw(wanted)
        cond = jnp.arange(num)
    elif mark is not None:
        draw = edit_draw(wanted, watermarking.start(wanted, mark))
        cond = jnp.arange(num)
    else:
        draw = make_draw(
            task.model, task.process, sampler, task.shape, limit=task.space.limit, weak=chosen.weak
        )
        cond = chosen.cond
    out, key = _folder(), jax.random.key(SEED.value)
    drawn = task.drawn(
        draw, run.components, key, num, BATCH_SIZE.value, times, cond, chosen.guidance
    )
    images = to_uint8(np.asarray(drawn.images))
    images = images if edit is None else edit.finished(images)
    weights = "" if signer is None else checksum(params)
    made = Made(run.folder.path.resolve().name, run.config.digest(), weights)
    if edit is None:
        write(out, images, sheet_of(images, guiding.texts(task, num)), made, signer)
    else:
        write(out, images, edit.sheet(images), made, signer, "part")
    if drawn.film.size:
        save_film(out / "trajectory.gif", to_uint8(np.asarray(drawn.film)))
    print(
        f"{num} images of step {run.step} in {out}"
        + ("" if edit is None else edit.told(task.condition.names))
    )


class Made(NamedTuple):
    """What has drawn: its name, a digest of what it is, and one of its weights for who signs."""

    name: str
    digest: str
    weights: str


def write(
    out: pathlib.Path, images: Pixels, sheet: Image.Image, made: Made, signer: Identity | None,
    drawn: Drawn = "all",
) -> None:  # fmt: skip
    """Writes the images as an array, as files and as one sheet, of which so much is drawn."""
    np.savez_compressed(out / "samples.npz", images=images)
    with marking.marked(made.digest, SEED.value):
        paths = save_images(out / "images", images)
        save_picture(out / "grid.png", sheet, drawn)
    if signer is not None:
        told = signing.generation(made.name, made.weights, SEED.value)
        for path in paths:
            sign(path, signer, told)
        sign(out / "grid.png", signer, told, drawn)


def _folder() -> pathlib.Path:
    """The folder to write, made."""
    name = f"seed_{SEED.value}" if edits.TASK.value is None else f"{edits.TASK.value}_{SEED.value}"
    return checked(pathlib.Path(OUT.value or pathlib.Path(RUN.value) / "samples" / name))


def checked(out: pathlib.Path) -> pathlib.Path:
    """The folder, made. Raises UserError where its images/ is not that of an earlier call."""
    if (out / "images").exists() and not (out / "samples.npz").exists():
        raise UserError(f"{out / 'images'} exists and was not drawn: choose another folder (--out)")
    return out_folder.made(out)


if __name__ == "__main__":
    command.run(main)

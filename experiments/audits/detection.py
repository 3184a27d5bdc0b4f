"""Whether images carry a watermark."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Array, Float, Int, UInt8

from diffjax.data.images import scaled, to_uint8
from diffjax.editing.pictures import read_pictures
from diffjax.generate import times_of
from diffjax.runs import Run
from diffjax.samplers.ddim import DDIM
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.tasks.tracing import classes_of, noise_of, x0_behind
from diffjax.trust.watermarks.base import Found, Watermark
from experiments.audits.asked import STEPS
from experiments.audits.statuses import UNMARKED
from experiments.flags import kinds, watermarking

flags.adopt_module_key_flags(watermarking)
LEVEL = kinds.define_number(
    "level", 0.001, "how often an unmarked image may be taken for a marked one",
    lower_bound=0, upper_bound=1,
)  # fmt: skip
OWN = (watermarking.WATERMARK, LEVEL)
GUESSES = 4  # of each class
ENDS = 16  # levels next to black and to white
Pixels = UInt8[np.ndarray, "N H W C"]


def tell_found(
    run: Run[DenoiserTask], watermark: Watermark, files: Sequence[str], as_json: bool
) -> int:
    """Says of each image in the files whether it carries the mark.

    Returns the exit status: UNMARKED where one does not.
    """
    form, status = run.task.image_shape, 0
    for file in files:
        images = to_uint8(read_pictures(file, form))
        found = find(run, watermark, images)
        for i, p_value in enumerate(found.p_value):
            told: dict[str, Any] = {"file": file, "image": i, "p_value": float(p_value)}
            told["marked"] = bool(p_value < LEVEL.value)
            if found.bits is not None and told["marked"]:
                told["message"] = sum(int(bit) << n for n, bit in enumerate(found.bits[i]))
            status = status if told["marked"] else UNMARKED
            print(json.dumps(told) if as_json else line(told, len(images)))
    return status


def line(told: dict[str, Any], count: int) -> str:
    """In words."""
    where = told["file"] if count == 1 else f"{told['file']}, image {told['image']}"
    message = f", message {told['message']}" if "message" in told else ""
    said = "marked" if told["marked"] else "no mark found"
    return f"{where}: {said}{message} (p = {told['p_value']:.2g})"


def find(run: Run[DenoiserTask], watermark: Watermark, images: Pixels) -> Found:
    """The mark in images, by the noise that leads to them."""
    return watermark.find(unit_noise(run, images))


def unit_noise(run: Run[DenoiserTask], images: Pixels) -> Float[np.ndarray, "N h w c"]:
    """The noise behind images, on the scale of what a watermark marks.

    Where an image is nearly black or white, none is left: what is found there is put to 0. Latents
    have no such places.
    """
    _, sigma = run.task.process.bind(run[DENOISER].params).schedule.alpha_sigma(walk(run)[0])
    noise: np.ndarray = noise_behind(run, recognise(run, images)) / np.asarray(sigma)
    if not run.task.space.needs_autoencoder:
        noise = noise * ((images > ENDS) & (images < 255 - ENDS))
    return noise


class Recognised(NamedTuple):
    """What the network takes images for: x0, and their classes where it knows some."""

    x0: Float[np.ndarray, "N h w c"]
    classes: Int[np.ndarray, "N"] | None


def recognise(run: Run[DenoiserTask], images: Pixels) -> Recognised:
    """Asks the network."""
    x0 = x0_behind(run.task, run.components, scaled(images))
    return Recognised(x0, classes_of(run.task, run.components, x0, GUESSES))


def noise_behind(run: Run[DenoiserTask], found: Recognised) -> Float[np.ndarray, "N h w c"]:
    """The noise at the first of `walk`'s times, by DDIM inversion."""
    cond = run.task.condition.asked(found.classes, len(found.x0))
    return noise_of(run.task, run.components, found.x0, cond, walk(run))


def walk(run: Run[DenoiserTask]) -> Float[Array, "T"]:
    """The times of --steps, down from noise."""
    return times_of(run.task.process, run[DENOISER].params, DDIM().spacing, STEPS.value)

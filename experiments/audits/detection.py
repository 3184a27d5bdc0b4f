"""Whether images carry a watermark, and what it withstands."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, UInt8

from diffjax.data.images import scaled, to_uint8
from diffjax.editing.pictures import read_pictures
from diffjax.generate import times_of
from diffjax.runs import Run
from diffjax.samplers.ddim import DDIM
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.tasks.tracing import classes_of, noise_of
from diffjax.trust.attacks import CHANGES, changed
from diffjax.trust.watermarks.base import Found, Watermark
from experiments.audits.asked import SEED, STEPS, num
from experiments.flags import guiding, kinds, watermarking
from experiments.flags.making import Wanted, edit_draw

flags.adopt_module_key_flags(watermarking)
LEVEL = kinds.define_number(
    "level", 0.001, "how often an unmarked image may be taken for a marked one",
    lower_bound=0, upper_bound=1,
)  # fmt: skip
OWN = (watermarking.WATERMARK, LEVEL)
UNMARKED = 3  # the exit status
DRAWN = 100  # images, with the mark and without
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
    task, params = run.task, run[DENOISER].params
    x0 = task.x0_of(run.components, scaled(images))
    classes = classes_of(task, run.components, x0)
    cond = task.condition.asked(classes, len(x0))
    times = _times(run)
    _, sigma = task.process.bind(params).schedule.alpha_sigma(times[0])
    noise = noise_of(task, run.components, x0, cond, times)
    return watermark.find(noise / np.asarray(sigma))


class Row(NamedTuple):
    """What is left of a mark after a change: of marked and unmarked images, as many of each.

    auc: how often a marked image looks more marked than an unmarked one. found: the share of marked
    images below the level, and false those of the others. bits: the share that is right.
    """

    change: str
    auc: float
    found: float
    false: float
    bits: float | None


def tell_robustness(run: Run[DenoiserTask], watermark: Watermark) -> dict[str, Any]:
    """Draws with and without the mark, and says what is found after each change."""
    key, count = jax.random.key(SEED.value), num(DRAWN)
    drawn = run.sample(key, num=count, steps=STEPS.value, sampler=DDIM())
    plain, marked = to_uint8(np.asarray(drawn)), draw_marked(run, watermark, count)
    rows = []
    print(f"{'change':<28}{'AUC':>8}{'found':>8}{'false':>8}{'bits':>8}")
    for name, change in CHANGES.items():
        own, other = (find(run, watermark, changed(images, change)) for images in (marked, plain))
        rows.append(compared(name, watermark, own, other))
        bits = "-" if rows[-1].bits is None else f"{rows[-1].bits:.3f}"
        print(
            f"{name:<28}{rows[-1].auc:>8.3f}{rows[-1].found:>8.3f}{rows[-1].false:>8.3f}{bits:>8}",
            flush=True,
        )
    return {"watermark": type(watermark).__name__, "rows": [row._asdict() for row in rows]}


def compared(name: str, watermark: Watermark, own: Found, other: Found) -> Row:
    """The row of what is found in marked images and in others."""
    lower = own.p_value[:, None] < other.p_value
    equal = own.p_value[:, None] == other.p_value
    message = getattr(watermark, "message", None)
    bits = None
    if own.bits is not None and message is not None:
        told = message >> np.arange(own.bits.shape[1]) & 1
        bits = float((own.bits == told).mean())
    found, false = (float((each.p_value < LEVEL.value).mean()) for each in (own, other))
    return Row(name, float((lower + equal / 2).mean()), found, false, bits)


def draw_marked(run: Run[DenoiserTask], watermark: Watermark, count: int) -> Pixels:
    """What `Run.sample` draws, from marked noise."""
    task, times, batch = run.task, _times(run), min(count, 64)
    cond = task.condition.asked(None, count)
    chosen = guiding.Chosen(cond, task.guided(1.0, cond, count), None)
    wanted = Wanted(run, DDIM(), times, count, chosen, SEED.value, batch)
    draw = edit_draw(wanted, watermarking.start(wanted, watermark))
    key, rows = jax.random.key(SEED.value), jnp.arange(count)
    made = task.drawn(draw, run.components, key, count, batch, times, rows, chosen.guidance)
    return to_uint8(np.asarray(made.images))


def _times(run: Run[DenoiserTask]) -> Float[Array, "T"]:
    return times_of(run.task.process, run[DENOISER].params, DDIM().spacing, STEPS.value)

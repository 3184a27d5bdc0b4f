"""What a watermark in drawn images withstands, and who can take it off or fake it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from diffjax.data.images import to_uint8
from diffjax.data.skipping import read_all
from diffjax.editing.image_to_image import SDEdit
from diffjax.editing.interpolation import FromNoise
from diffjax.errors import UserError
from diffjax.runs import Run
from diffjax.samplers.ddim import DDIM
from diffjax.tasks.denoisers import DenoiserTask
from diffjax.trust.attacks import CHANGES, changed, common_pattern, shifted
from diffjax.trust.watermarks.base import Found, Watermark
from diffjax.trust.watermarks.gaussian_shading import GaussianShading
from experiments.audits.asked import DATA_DIR, SEED, STEPS, num
from experiments.audits.detection import (
    LEVEL,
    Pixels,
    find,
    noise_behind,
    recognise,
    unit_noise,
    walk,
)
from experiments.flags import watermarking
from experiments.flags.making import Chosen, Wanted, draw_edit

DRAWN = 100  # images, with the mark and without
HELD_OUT = 10  # times as many real images, of which none is marked
STRENGTH = 0.3  # of regeneration: the time that an image is noised to
BATCH = 64


class Row(NamedTuple):
    """What is found after a change: of marked images and unmarked ones, as many of each.

    auc: how often a marked image looks more marked than an unmarked one. found: the share of marked
    images below the level, and false those of the others. bits: as `bits_right`.
    """

    change: str
    auc: float
    found: float
    false: float
    bits: float | None


def tell_robustness(run: Run[DenoiserTask], watermark: Watermark) -> dict[str, Any]:
    """Draws with and without the mark, and says what is found after each change and attack."""
    count = num(DRAWN)
    real = held_out_images(run, HELD_OUT * count)
    drawn = run.sample(jax.random.key(SEED.value), num=count, sampler=DDIM(), steps=STEPS.value)
    plain, marked = to_uint8(np.asarray(drawn)), draw_marked(run, watermark, count)
    rows = []
    print(f"{'change':<40}{'AUC':>8}{'found':>8}{'false':>8}{'bits':>8}")

    def show(name: str, own: Pixels, other: Found) -> None:
        noise = unit_noise(run, own)
        row = compared(name, watermark.find(noise), other, bits_right(watermark, noise))
        rows.append(row)
        bits = "-" if row.bits is None else f"{row.bits:.3f}"
        print(f"{name:<40}{row.auc:>8.3f}{row.found:>8.3f}{row.false:>8.3f}{bits:>8}", flush=True)

    for name, change in CHANGES.items():
        show(name, changed(marked, change), find(run, watermark, changed(plain, change)))
    again = (regenerated(run, images) for images in (marked, plain))
    show("drawn again from a noisy version", next(again), find(run, watermark, next(again)))
    unmarked, pattern = find(run, watermark, plain), common_pattern(marked, plain)
    show("attack: mean of the marked taken off", shifted(marked, -pattern), unmarked)
    show("forgery: mean of the marked put on", shifted(plain, pattern), unmarked)
    if run.task.condition.classes is not None:
        show("forgery: another class from its noise", reused(run, marked), unmarked)
    found: dict[str, Any] = {
        "watermark": type(watermark).__name__, "num": count, "rows": [row._asdict() for row in rows]
    }  # fmt: skip
    if len(real):
        found["held_out"] = tell_held_out(find(run, watermark, real))
    return found


def tell_held_out(found: Found) -> dict[str, float]:
    """Says of unmarked images how many are taken for marked ones, and whether p is uniform."""
    count, false = len(found.p_value), float((found.p_value < LEVEL.value).mean())
    uniform = float(stats.kstest(found.p_value, "uniform").pvalue)
    print(
        f"{count} held-out images: {false:.4f} below p = {LEVEL.value:g}; were p uniform, it would "
        f"be spread as unevenly with a chance of {uniform:.2g}"
    )
    return {"num": count, "uniform": uniform, "false": false}


def bits_right(watermark: Watermark, noise: Float[np.ndarray, "N h w c"]) -> float | None:
    """The share of a message's bits that are read by whoever does not know it; None without one.

    Whoever knows it finds the nonce that fits it best, by which most bits are right in any image.
    """
    if not isinstance(watermark, GaussianShading) or watermark.message is None:
        return None
    read = dataclasses.replace(watermark, message=None).find(noise).bits
    assert read is not None
    return float((read == (watermark.message >> np.arange(watermark.bits) & 1)).mean())


def compared(name: str, own: Found, other: Found, bits: float | None) -> Row:
    """The row of what is found in marked images and in others."""
    lower = own.p_value[:, None] < other.p_value
    equal = own.p_value[:, None] == other.p_value
    found, false = (float((each.p_value < LEVEL.value).mean()) for each in (own, other))
    return Row(name, float((lower + equal / 2).mean()), found, false, bits)


def held_out_images(run: Run[DenoiserTask], count: int) -> Pixels:
    """So many that the run was not trained on, or fewer; none where its data cannot be read."""
    try:
        records = run.open("test", DATA_DIR.value)
    except UserError as error:
        print(f"no held-out images: {error}")
        return np.zeros((0, *run.task.image_shape), np.uint8)
    order = np.random.default_rng(SEED.value).permutation(len(records))[:count]
    rows = read_all(records, order.tolist())
    return to_uint8(np.stack([row["image"] for row in rows]))


def draw_marked(run: Run[DenoiserTask], watermark: Watermark, count: int) -> Pixels:
    """What `Run.sample` draws, from marked noise."""
    wanted = _wanted(run, None, count)
    return draw_edit(wanted, watermarking.start(wanted, watermark), walk(run))


def regenerated(run: Run[DenoiserTask], images: Pixels) -> Pixels:
    """Each image noised up to STRENGTH and drawn down again (Zhao et al. 2024)."""
    x0, classes = recognise(run, images)
    edit = SDEdit(DDIM(), jnp.asarray(x0), STRENGTH)
    return draw_edit(
        _wanted(run, classes, len(images)), edit, jnp.asarray(edit.times(np.asarray(walk(run))))
    )


def reused(run: Run[DenoiserTask], images: Pixels) -> Pixels:
    """Images of the next class from the noise of these.

    Whoever has the model forges so, without the secret (Müller et al. 2025, "Black-box forgery
    attacks on semantic watermarks for diffusion models").
    """
    found = recognise(run, images)
    other = None if found.classes is None else (found.classes + 1) % run.task.condition.classes
    noise = noise_behind(run, found)
    return draw_edit(
        _wanted(run, other, len(images)), FromNoise(DDIM(), jnp.asarray(noise)), walk(run)
    )


def _wanted(run: Run[DenoiserTask], classes: Int[np.ndarray, "N"] | None, count: int) -> Wanted:
    cond = run.task.condition.asked(classes, count)
    chosen = Chosen(cond, run.task.guided(1.0, cond, count), None)
    return Wanted(run, DDIM(), walk(run), count, chosen, SEED.value, min(count, BATCH))

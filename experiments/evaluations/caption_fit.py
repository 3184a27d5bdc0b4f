"""How well a run's images fit the captions that they were drawn for, by a CLIP."""

import pathlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import diffjax.samplers
from diffjax import runs, spec
from diffjax.checksum import checksum
from diffjax.data import Records
from diffjax.data.skipping import read_all
from diffjax.data.tokenised import caption_number
from diffjax.errors import UserError
from diffjax.metrics.clip_score import clip_score, matched_among
from diffjax.runs import Run
from diffjax.tasks.base import Task
from diffjax.tasks.denoisers import DenoiserTask
from experiments.evaluations import drawn, held_out
from experiments.evaluations.held_out import BATCH_SIZE, NUM, SEED
from experiments.evaluations.saved import save
from experiments.flags import kinds, specs

CLIP = kinds.define_path(
    "clip", None, "clip_score: the folder of a run of experiments.clip, or of a CLIP's files"
)
OWN = (CLIP,)
CANDIDATES = 20  # captions, among which an image's own is looked for
READ = 256  # records at a time


class Questions(NamedTuple):
    """Distinct held-out captions, and the first image of each in [-1, 1]."""

    captions: list[str]
    images: Float[np.ndarray, "N H W C"]


def check(task: Task) -> None:
    """Raises UserError for a run that draws from no captions, and without --clip."""
    if not getattr(task, "asks_captions", False):
        raise UserError(
            f"clip_score draws images for captions, and this {task.name} run is conditioned on no "
            "captions: give a run that is"
        )
    if CLIP.value is None:
        raise UserError("clip_score needs --clip, a run of experiments.clip or a CLIP's files")


def score_captions(run: Run[DenoiserTask], path: pathlib.Path) -> None:
    """Draws one image for each of --num held-out captions, embeds, saves and prints."""
    scale, towers = drawn.one_scale(), runs.load_towers(str(CLIP.value))
    digest = checksum(towers.params)
    found = captions_of_run(held_out.open_held_out(run.config), NUM.value, SEED.value)
    num = min(NUM.value, len(found.captions))
    if num < NUM.value:
        print(f"--num={NUM.value} is cut to {num}: there are no more distinct held-out captions")
    # Before the images are drawn: a model of one tower is refused here.
    texts, real = towers.texts(found.captions), towers.images(found.images[:num])
    images = towers.images(draw(run, found.captions[:num], scale))
    figures = {
        "clip": CLIP.value,
        "clip_digest": digest,
        "independent": independent(run.task, digest),
        "step": run.step,
        "sampler": drawn.SAMPLER.value,
        "spacing": drawn.SPACING.value,
        "steps": drawn.STEPS.value,
        "guidance_scale": scale,
        "seed": SEED.value,
        **compared(images, real, texts, SEED.value),
    }
    saved = save(path, {"clip_score": figures})
    print(text(figures))
    print(f"{num} images of step {run.step}, CLIP {digest[:8]}, {saved}")
    if not figures["independent"]:
        print(
            "not independent: the run was conditioned on this CLIP, whose errors it may have "
            "learnt; give --clip another one",
            file=sys.stderr,
        )


def captions_of_run(records: Records, num: int, seed: int) -> Questions:
    """Up to `num` distinct captions, or CANDIDATES of them where that is more, in random order.

    Captions that differ in case or spacing alone are one. Raises UserError for records without
    texts, and for fewer than two captions.
    """
    wanted, order = max(num, CANDIDATES), np.random.default_rng(seed).permutation(len(records))
    first: dict[int, tuple[str, np.ndarray]] = {}
    for start in range(0, len(order), READ):
        for row in read_all(records, order[start : start + READ].tolist()):
            if "text" not in row:
                raise UserError("the run's data set has no texts: clip_score needs captions")
            first.setdefault(int(caption_number(row["text"])), (row["text"], row["image"]))
        if len(first) >= wanted:
            break
    if len(first) < 2:
        raise UserError(f"the run's data set holds out {len(first)} caption: 2 or more are needed")
    captions, images = zip(*list(first.values())[:wanted], strict=True)
    return Questions(list(captions), np.stack(images))


def draw(run: Run[DenoiserTask], captions: list[str], scale: float) -> Float[np.ndarray, "N H W C"]:
    """One image for each caption, by the flags, in [-1, 1]."""
    sampler = spec.build(drawn.SAMPLER.value, diffjax.samplers)
    made = run.sample(
        jax.random.key(SEED.value), labels=captions, steps=drawn.STEPS.value, sampler=sampler,
        spacing=specs.spacing_of(drawn.SPACING.value, sampler), guidance=scale,
        batch_size=BATCH_SIZE.value,
    )  # fmt: skip
    return np.asarray(made)


def independent(task: Task, digest: str) -> bool:
    """Whether the task was given no component of these weights."""
    return digest not in {source.digest for source in task.sources.values()}


def compared(
    images: Float[np.ndarray, "N D"],
    real: Float[np.ndarray, "N D"],
    texts: Float[np.ndarray, "M D"],
    seed: int,
) -> dict[str, Any]:
    """What is said of embeddings of images drawn for the first N texts, and of real ones'."""
    num, count = len(images), min(CANDIDATES, len(texts))
    figures: dict[str, Any] = {"num": num, "candidates": count, "chance": 1 / count}
    for name, side in (("samples", images), ("real", real)):
        value, interval = clip_score(side, texts[:num], seed)
        matched = matched_among(side, texts, np.arange(num), count, seed)
        figures[name] = {
            "clip_score": value,
            "interval": list(interval),
            "matched": matched.value,
            "matched_interval": list(matched.interval),
        }
    return figures


def text(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [f"{'':<34}{'samples':>10}{'95%':>20}{'real':>10}{'95%':>20}"]
    for title, key, ends in (
        ("CLIP score", "clip_score", "interval"),
        (f"own caption first of {figures['candidates']}", "matched", "matched_interval"),
    ):
        cells = [
            f"{figures[side][key]:>10.3f}{'{:.3f} to {:.3f}'.format(*figures[side][ends]):>20}"
            for side in ("samples", "real")
        ]
        lines.append(f"{title:<34}{''.join(cells)}")
    lines.append(f"{'  by guessing':<34}{figures['chance']:>10.3f}")
    return "\n".join(lines)

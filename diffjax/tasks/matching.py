"""What is measured of a CLIP while it learns: its embeddings, and what it finds."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from diffjax.data import Records
from diffjax.data.images import to_rgb, to_uint8
from diffjax.data.skipping import Skipping
from diffjax.data.tokenised import caption_number
from diffjax.display.images import save_film, save_picture
from diffjax.metrics.embeddings import geometry, normalised
from diffjax.metrics.retrieval import KS, ranks, recall_at
from diffjax.objectives.contrastive import Pairs, softmax_loss
from diffjax.tasks.base import Preview
from diffjax.tasks.towers import Towers
from diffjax.training.journal import HELD_OUT, add_line
from diffjax.training.run import RunFolder
from diffjax.typing import Params

MOST = 1000  # pairs that are measured
LEARNT, NEW = 16, 8  # pairs in the picture: trained on, and held out
CELL, GAP = 28, 4  # its pixels per pair, and between the two kinds
STUCK = 0.98  # of the loss of guesses: a loss above it is one of guesses
PATIENCE = 2  # measurements with such a loss, before it is said
loss = jax.jit(softmax_loss)


@dataclasses.dataclass(frozen=True)
class Exam:
    """The held-out pairs that weights are measured on, and what takes each result.

    Pairs of both kinds of records, with texts, are in the pictures. Others stand in for at most
    `max_bad_records` damaged ones of each kind.
    """

    records: Records
    trained: Records
    max_bad_records: int = 0
    say: Callable[[str], object] = print
    seed: int = 0


class Sample(NamedTuple):
    """Pairs of images in [-1, 1] and texts; equal numbers are equal captions."""

    images: Float[np.ndarray, "N H W C"]
    texts: list[str]
    captions: Int[np.ndarray, "N"]


def matching_preview(
    folder: RunFolder, towers_of: Callable[[Mapping[str, Params]], Towers], exam: Exam
) -> Preview:
    """Adds a line of figures to held_out.jsonl and a similarity matrix to the film, per call.

    The figures are `figures`' of at most 1,000 held-out pairs, the same ones each time. The matrix
    is that of 16 pairs that are trained on and 8 that are held out, all of different captions.
    """
    pairs = drawn(exam, exam.records, MOST)
    few = (drawn(exam, exam.trained, 4 * LEARNT), LEARNT), (pairs, NEW)
    shown = joined([distinct(sample, count) for sample, count in few])
    stuck = 0

    def show(step: int, params: Params) -> None:
        nonlocal stuck
        towers = towers_of(params)
        images = np.asarray(normalised(towers.images(pairs.images)))
        texts = np.asarray(normalised(towers.texts(pairs.texts)))
        found = figures(images, texts, pairs.captions, towers.logit_scale)
        add_line(folder.path / HELD_OUT, step, found)
        rows, columns = normalised(towers.images(shown.images)), towers.texts(shown.texts)
        cosines = np.asarray(rows @ normalised(columns).T)
        sheet = matrix(cosines, to_uint8(shown.images), len(cosines) - NEW)
        save_picture(folder.picture(step), sheet, drawn="none")
        frames = [np.asarray(Image.open(p)) for s, p in folder.pictures().items() if s <= step]
        save_film(folder.film, np.stack(frames)[:, None])
        exam.say(
            f"step {step}: the right text is among the first 5 of {len(set(pairs.texts))} for "
            f"{found['text_at_5']:.1%} of {len(images)} held-out images"
        )
        # A network that has learnt too well has a high loss too, but finds more than by chance.
        by_chance = max(KS) / len(set(pairs.texts))
        guessing = found["held_out_loss"] > STUCK * found["guessing"]
        stuck = stuck + 1 if guessing and found[f"text_at_{max(KS)}"] < 2 * by_chance else 0
        if stuck >= PATIENCE:
            exam.say(
                f"step {step}: the loss of held-out pairs is still {found['held_out_loss']:.2f}, "
                f"log(batch) for {found['guessing']:.2f}: nothing is learnt; check that captions "
                "belong to their images, or lower learning_rate"
            )

    return show


def drawn(exam: Exam, records: Records, most: int) -> Sample:
    """At most so many of the records, at random."""
    chosen = np.random.RandomState(exam.seed).permutation(len(records))[:most]
    rows = Skipping(records, exam.max_bad_records)(chosen.tolist())
    texts = [row["text"] for row in rows]
    captions = np.asarray([caption_number(text) for text in texts])
    return Sample(np.stack([row["image"] for row in rows]), texts, captions)


def distinct(sample: Sample, count: int) -> Sample:
    """The first so many pairs of different captions."""
    chosen = np.sort(np.unique(sample.captions, return_index=True)[1])[:count]
    texts = [sample.texts[index] for index in chosen]
    return Sample(sample.images[chosen], texts, sample.captions[chosen])


def joined(samples: Sequence[Sample]) -> Sample:
    """One sample after the other."""
    images, texts, captions = zip(*samples, strict=True)
    every = list(itertools.chain.from_iterable(texts))
    return Sample(np.concatenate(images), every, np.concatenate(captions))


def figures(
    images: Float[np.ndarray, "N D"],
    texts: Float[np.ndarray, "N D"],
    captions: Int[np.ndarray, "N"],
    scale: float,
) -> dict[str, float]:
    """What is said of unit embeddings of pairs.

    text_at_k: the share of images with the right text among the k most similar, of all texts that
    differ; image_at_k: of texts, with a right image. held_out_loss: CLIP's loss of these pairs in
    nats, and guessing that of random embeddings.
    """
    cosines = images @ texts.T
    right = captions[:, None] == captions
    once = np.unique(captions, return_index=True)[1]
    found = {
        f"{name}_at_{k}": share
        for name, found in (
            ("text", ranks(cosines[:, once], right[:, once])),
            ("image", ranks(cosines.T[once], right[once])),
        )
        for k, share in recall_at(np.asarray(found), KS).items()
    }
    share = jnp.asarray(images), jnp.asarray(texts), jnp.asarray(captions)
    pairs = Pairs(*share, *share)  # all there are
    return {
        **found,
        "held_out_loss": float(loss(pairs, scale)[0]),
        "guessing": float(loss(pairs, 0.0)[0]),
        **{name: float(value) for name, value in geometry(images, texts, texts[once]).items()},
    }


def matrix(
    cosines: Float[np.ndarray, "N N"], images: UInt8[np.ndarray, "N H W C"], learnt: int
) -> Image.Image:
    """Cosines as squares from white, the least, to dark blue; a row per image, a column per text.

    The images stand at the left. Of texts in the order of their images the diagonal is right. A gap
    follows the first `learnt` rows and columns.
    """
    low, high = cosines.min(), cosines.max()
    share = (cosines - low) / max(high - low, 1e-6)
    colours = 255 - share[..., None] * (255 - np.asarray([8, 48, 107]))
    squares = colours.round().astype(np.uint8).repeat(CELL, 0).repeat(CELL, 1)
    cells = [np.asarray(to_rgb(image).resize((CELL, CELL))) for image in images]
    sheet = np.concatenate([np.concatenate(cells), squares], axis=1)
    place = learnt * CELL
    for axis, start in ((0, place), (1, place + CELL)):
        sheet = np.insert(sheet, [start] * GAP, 255, axis=axis)
    return Image.fromarray(sheet)

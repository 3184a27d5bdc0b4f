"""What a run has memorised: copies of training images among its samples, and who was a member."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffjax.batches import in_batches
from diffjax.data import Records
from diffjax.data.base import Record
from diffjax.data.images import to_uint8
from diffjax.data.skipping import read_all
from diffjax.display.images import grid, save_picture
from diffjax.errors import UserError
from diffjax.metrics.extractors import judge_features, make_features
from diffjax.runs import Run
from diffjax.tasks.classifier import CLASSIFIER
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.trust import membership
from diffjax.trust.memorisation import Copies, compare, distinct, threshold
from experiments.audits.asked import DATA_DIR, NUM, SEED, STEPS, num
from experiments.flags import kinds, marking
from experiments.flags.judges import load_judge

DRAWS = kinds.define_integer(
    "draws", 16, "times and noises an image at which its loss is measured", lower_bound=1
)
JUDGE = kinds.define_path(
    "judge", None, "a run of experiments.classifier, whose features are compared and not pixels"
)
OWN = (NUM, SEED, DATA_DIR)
BATCH, SHOWN, MANY = 64, 10, 1000


def tell_copies(run: Run[DenoiserTask]) -> dict[str, Any]:
    """Draws, and looks for each image among those that were trained on."""
    rows_of = _rows(run)
    training, held_out = (_images(run.open(split, DATA_DIR.value)) for split in ("train", "test"))
    count = num(MANY)
    images = run.sample(jax.random.key(SEED.value), num=count, steps=STEPS.value)
    samples = _rounded(np.asarray(images))
    # By their pixels: features of the same image may differ in the last digit.
    known = distinct(_flat(training))
    training = training[known.first]
    known = known._replace(images=rows_of(training))
    own, other, new = (
        compare(rows_of(each), known) for each in (samples, held_out[::2], held_out[1::2])
    )
    edge = threshold(other)
    copies, taken = own.score < edge, int((new.score < edge).sum())
    copied, repeated = set(own.which[copies].tolist()), np.flatnonzero(known.times > 1)
    repeated_copied = len(copied.intersection(repeated.tolist()))
    print(
        f"{count} images beside {known.times.sum()} that were trained on: {copies.sum()} are "
        f"copies (score below {edge:.3f}, the lowest of {len(other.score)} held-out images; "
        f"{taken} of {len(new.score)} others lie below it)"
    )
    if len(repeated):
        print(f"of {len(repeated)} images that occur more than once, {repeated_copied} are copied")
    print(
        f"median distance to the nearest: {np.median(own.distance):.2f}, and "
        f"{np.median(other.distance):.2f} of held-out images"
    )
    path = run.folder.path / "nearest.png"
    show_nearest(path, run, samples, training, own)
    print(f"the {min(SHOWN, len(samples))} nearest, above what they are nearest to: {path}")
    return {
        "copies": int(copies.sum()), "num": count, "threshold": edge, "copied": len(copied),
        "repeated": len(repeated), "repeated_copied": repeated_copied,
        "held_out": len(new.score), "held_out_taken": taken, "judge": JUDGE.value,
    }  # fmt: skip


def show_nearest(
    path: pathlib.Path, run: Run[DenoiserTask], samples: Float[np.ndarray, "N H W C"],
    training: Float[np.ndarray, "M H W C"], own: Copies,
) -> None:  # fmt: skip
    """The samples of the lowest score, above the training images that they are nearest to."""
    order = own.score.argsort()[:SHOWN]
    rows = np.concatenate([samples[order], training[own.which[order]]])
    with marking.marked(run.config.digest(), SEED.value):
        save_picture(path, grid(to_uint8(rows), len(order)), drawn="part")


def tell_members(run: Run[DenoiserTask]) -> dict[str, Any]:
    """Says how well images that were trained on can be told from others."""
    members, others = (run.open(split, DATA_DIR.value) for split in ("train", "test"))
    rng = np.random.default_rng(SEED.value)
    chosen = [_distinct(records, rng, num(MANY)) for records in (members, others)]
    counts = [len(rows) for rows in chosen]
    if min(counts) < num(MANY):
        known, new = counts
        print(f"--num={num(MANY)} is cut to {known} members and {new} others: there are no more")
    sides = [_batch(run, rows) for rows in chosen]
    found: dict[str, Any] = dict(zip(("num", "others"), counts, strict=True))
    print(f"{'attack':<8}{'AUC':>8}{'95%':>18}{'TPR at 1%':>12}{'95%':>18}{'FPR':>8}")
    for name, scores in _scores(run).items():
        own, other = (scores(side) for side in sides)
        told = membership.attack(own, other, SEED.value)
        found[name] = told._asdict()
        auc, low, high = told.auc
        caught, least, most = told.caught
        print(
            f"{name:<8}{auc:>8.3f}{f'{low:.3f} to {high:.3f}':>18}{caught:>12.3f}"
            f"{f'{least:.3f} to {most:.3f}':>18}{told.false:>8.3f}"
        )
    return found


def _scores(run: Run[DenoiserTask]) -> dict[str, Any]:
    task, denoiser = run.task, run[DENOISER]
    apply = denoiser.model.apply
    loss = jax.jit(membership.by_loss(task.process, apply, task.condition, DRAWS.value))
    secmi = jax.jit(membership.by_steps(task.process, apply))

    def of_loss(batch: dict[str, np.ndarray]) -> Float[np.ndarray, "N"]:
        rows = np.arange(len(batch["image"]))

        def part(index: np.ndarray) -> np.ndarray:
            given = {name: jnp.asarray(values[index]) for name, values in batch.items()}
            return np.asarray(loss(denoiser.params, jax.random.key(SEED.value), given))

        found: np.ndarray = in_batches(part, rows, min(BATCH, len(rows)))
        return found

    def of_steps(batch: dict[str, np.ndarray]) -> Float[np.ndarray, "N"]:
        def part(index: np.ndarray) -> np.ndarray:
            given = {name: jnp.asarray(values[index]) for name, values in batch.items()}
            cond = task.condition.of_batch(given)
            return np.asarray(secmi(denoiser.params, given["image"], cond))

        rows = np.arange(len(batch["image"]))
        found: np.ndarray = in_batches(part, rows, min(BATCH, len(rows)))
        return found

    return {"loss": of_loss, "SecMI": of_steps}


def _distinct(records: Records, rng: np.random.Generator, count: int) -> list[Record]:
    """So many at random, or all, each image once: intervals take images for independent."""
    found: dict[bytes, Record] = {}
    for index in rng.permutation(len(records)).tolist():
        if len(found) == count:
            break
        record = records[index]
        found.setdefault(record["image"].tobytes(), record)
    return list(found.values())


def _batch(run: Run[DenoiserTask], rows: Sequence[Record]) -> dict[str, np.ndarray]:
    """These records, with x0 as their images."""
    task = run.task
    batch = {key: np.stack([row[key] for row in rows]) for key in
             ("image", *task.condition.batch_keys)}  # fmt: skip
    return {**batch, "image": np.asarray(task.x0_of(run.components, batch["image"]))}


def _images(records: Records) -> Float[np.ndarray, "N H W C"]:
    if not len(records):
        raise UserError("the run's data set holds out no image: one or more are needed")
    rows = read_all(records, list(range(len(records))))
    return np.stack([row["image"] for row in rows])


def _rounded(images: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N H W C"]:
    """As a file of them would hold."""
    return (to_uint8(images) / np.float32(127.5) - 1).astype(np.float32)


def _rows(
    run: Run[DenoiserTask],
) -> Callable[[Float[np.ndarray, "N H W C"]], Float[np.ndarray, "N D"]]:
    """What stands for an image: its pixels, or what the judge sees in it."""
    if JUDGE.value is None:
        return _flat
    judge = load_judge(JUDGE.value, run.task)
    apply, params = judge.task.model.apply, judge[CLASSIFIER].params
    look = make_features(judge_features(apply, params, judge.task.image_shape), BATCH)
    return lambda images: look(images).rows.astype(np.float64)


def _flat(images: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
    return images.reshape(len(images), -1).astype(np.float64)

"""Measures a run's images by what a judge sees in them and in real ones it has not learnt from.

python -m experiments.evaluate --run=DIR --judge=DIR2 --num=1000
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float, Int, UInt8

import diffjax.data
import diffjax.samplers
import diffjax.spacings
from diffjax import spec
from diffjax.data import Records, images
from diffjax.errors import UserError
from diffjax.generate import generate, make_draw, times_of
from diffjax.metrics.frechet import frechet_distance
from diffjax.metrics.judge import Opinion, agreement, class_shares, confidence, make_judge
from diffjax.metrics.precision_recall import NEIGHBOURS, precision_recall
from diffjax.report.images import write_whole
from diffjax.trained import Judge, Trained, load, load_judge
from diffjax.training.run import RunFolder
from experiments import cli

RUN = flags.DEFINE_string("run", None, "the folder of the run that draws", required=True)
JUDGE = flags.DEFINE_string(
    "judge", None, "the folder of a run of experiments.classifier", required=True
)
NUM = flags.DEFINE_integer(
    "num", 1000, "images to draw, and as many real ones twice", lower_bound=NEIGHBOURS + 1
)
STEPS = flags.DEFINE_integer("steps", 50, "sampling steps", lower_bound=1)
SAMPLER = cli.define_spec("sampler", "ddim", diffjax.samplers, "how they are drawn")
SPACING = cli.define_spec(
    "spacing", None, diffjax.spacings, "its times; by default those the sampler does best on"
)
SEED = flags.DEFINE_integer("seed", 0, "all randomness", lower_bound=0)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 100, "images at a time; changes memory and speed, not the images", lower_bound=1
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "where the judge's prepared TFDS set lies")


class Real(NamedTuple):
    """Real images in [-1, 1] and their labels."""

    images: Float[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, "N"]


def main() -> None:
    trained, judge = load(RUN.value), load_judge(JUDGE.value)
    check_fit(trained, judge)
    records = open_held_out(judge)
    num = affordable(NUM.value, len(records))
    reference, floor = halves(records, num, SEED.value)
    drawn, labels = draw(trained, num)
    look = make_judge(judge.model.apply, BATCH_SIZE.value)
    of_reference = look(judge.params, reference.images)
    samples = measure(look(judge.params, as_records(drawn)), of_reference, labels)
    real = measure(look(judge.params, floor.images), of_reference, floor.labels)
    path = RunFolder.open(RUN.value)[0].path / "evaluation.json"
    save(path, {**settings(trained, judge, num), "samples": samples, "real": real})
    names = records.class_names or [str(i) for i in range(len(real["class_shares"]))]
    for title, drawn_column, real_column in table(samples, real, names):
        print(f"{title:<30}{drawn_column:>10}{real_column:>10}")
    print(f"{num} images of step {trained.step}, in {path}")


def check_fit(trained: Trained, judge: Judge) -> None:
    """Raises UserError for a judge of other images, or of other classes where the run has some."""
    shapes = trained.config.image_shape, judge.config.image_shape
    if shapes[0] != shapes[1]:
        raise UserError(
            f"the run draws images of {_by(shapes[0])} and the judge knows {_by(shapes[1])}: "
            "train a judge with the run's --dataset and --image_size"
        )
    classes = trained.config.num_classes, judge.config.num_classes
    if classes[0] not in (None, classes[1]):
        raise UserError(
            f"the run has {classes[0]} classes and the judge {classes[1]}: "
            "train a judge with the run's --dataset"
        )


def open_held_out(judge: Judge) -> Records:
    """What the judge's data set holds out, in the judge's size."""
    training = judge.config.training
    dataset = spec.build(training["dataset"], diffjax.data, {"data_dir": DATA_DIR.value})
    return dataset.open("test", training["image_size"])


def affordable(num: int, held_out: int) -> int:
    """As many as were asked for, or as two disjoint sets of real images can have, which it says.

    Raises UserError for too few to have neighbours.
    """
    most = held_out // 2
    if most <= NEIGHBOURS:
        raise UserError(
            f"the judge's data set holds out {held_out} images: {2 * NEIGHBOURS + 2} are needed"
        )
    if num > most:
        print(f"--num={num} is cut to {most}: the judge's data set holds out {held_out} images")
    return min(num, most)


def halves(records: Records, num: int, seed: int) -> tuple[Real, Real]:
    """Two sets of `num` records without a common one: the reference and, against it, the floor."""
    order = np.random.default_rng(seed).permutation(len(records))
    return read(records, order[:num]), read(records, order[num : 2 * num])


def read(records: Records, indices: Int[np.ndarray, "N"]) -> Real:
    rows = [records[int(index)] for index in indices]
    return Real(np.stack([r["image"] for r in rows]), np.stack([r["label"] for r in rows]))


def draw(
    trained: Trained, num: int
) -> tuple[UInt8[np.ndarray, "N H W C"], Int[np.ndarray, "N"] | None]:
    """Images of the run, and the classes asked for in turn where it takes some."""
    config = trained.config
    sampler = spec.build(SAMPLER.value, diffjax.samplers)
    drawer = make_draw(trained.model, trained.process, sampler, config.image_shape)
    spacing = cli.spacing_of(SPACING.value, sampler)
    times = times_of(trained.process, trained.params, spacing, STEPS.value)
    labels = None if config.num_classes is None else np.arange(num) % config.num_classes
    drawn, _ = generate(drawer, trained.params, SEED.value, num, BATCH_SIZE.value, times, labels)
    return drawn, labels


def as_records(drawn: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N H W C"]:
    """Drawn images in the form in which real ones are read."""
    return np.stack([images.from_array(image, image.shape) for image in drawn])


def measure(
    opinion: Opinion, reference: Opinion, labels: Int[np.ndarray, "N"] | None
) -> dict[str, Any]:
    """All that is said of a set of images, drawn or real, against the reference."""
    within = precision_recall(reference.features, opinion.features)
    return {
        "confidence": confidence(opinion.logits),
        "agreement": None if labels is None else agreement(opinion.logits, labels),
        "frechet": frechet_distance(opinion.features, reference.features),
        "precision": within.precision,
        "recall": within.recall,
        "class_shares": class_shares(opinion.logits).tolist(),
    }


def table(
    samples: dict[str, Any], real: dict[str, Any], names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Title, samples' and real images' column, row by row."""

    def row(title: str, key: str) -> tuple[str, str, str]:
        return title, _number(samples[key]), _number(real[key])

    ratio = samples["frechet"] / real["frechet"] if real["frechet"] else None
    shares = zip(names, samples["class_shares"], real["class_shares"], strict=True)
    return [
        ("", "samples", "real"),
        row("judge's confidence", "confidence"),
        row("judge agrees with label", "agreement"),
        row("Fréchet distance", "frechet"),
        ("  over that of real images", _number(ratio), _number(1.0)),
        row("precision", "precision"),
        row("recall", "recall"),
        *((f"share of {name}", _number(drawn), _number(real)) for name, drawn, real in shares),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def settings(trained: Trained, judge: Judge, num: int) -> dict[str, Any]:
    """What else a reader needs to measure again."""
    return {
        "num": num,
        "step": trained.step,
        "sampler": SAMPLER.value,
        "spacing": SPACING.value,
        "steps": STEPS.value,
        "seed": SEED.value,
        "judge": JUDGE.value,
        "judge_step": judge.step,
        "judge_dataset": judge.config.training["dataset"],
    }


def save(path: Any, values: dict[str, Any]) -> None:
    try:
        write_whole(path, lambda part: part.write_text(json.dumps(values, indent=2) + "\n"))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


if __name__ == "__main__":
    cli.run(main)

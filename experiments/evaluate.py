"""Measures a run: what a judge sees in its images, how likely it finds real ones, or both.

python -m experiments.evaluate --run=DIR --judge=DIR2 --num=1000
python -m experiments.evaluate --run=DIR --metrics=bpd --num=100
Real images are ones that are held out of training.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl import flags
from jaxtyping import Float, Int, UInt8

import diffjax.data
import diffjax.samplers
import diffjax.spacings
from diffjax import spec
from diffjax.data import Records, images
from diffjax.errors import UserError
from diffjax.generate import generate, make_draw, times_of
from diffjax.likelihood.measure import Effort, Estimate, estimate, make_measure
from diffjax.metrics.frechet import frechet_distance
from diffjax.metrics.judge import Opinion, agreement, class_shares, confidence, make_judge
from diffjax.metrics.precision_recall import NEIGHBOURS, precision_recall
from diffjax.report.images import write_whole
from diffjax.trained import Judge, Trained, check_fit, load, load_judge
from diffjax.training.run import RunConfig, RunFolder
from experiments import cli, devices

flags.adopt_module_key_flags(devices)
RUN = flags.DEFINE_string("run", None, "the folder of the run that is measured", required=True)
CHOSEN = flags.DEFINE_list(
    "metrics", ["judge"],
    "which of judge, what a judge sees in drawn images; bpd, bits/dim of held-out ones",
)  # fmt: skip
NUM = flags.DEFINE_integer(
    "num", 1000, "images to draw, and as many real ones twice; or real ones whose bits/dim to tell",
    lower_bound=NEIGHBOURS + 1,
)  # fmt: skip
SEED = flags.DEFINE_integer("seed", 0, "all randomness", lower_bound=0)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 100, "images at a time; changes memory and speed, not the figures", lower_bound=1
)
DATA_DIR = flags.DEFINE_string("data_dir", None, "where prepared TFDS sets lie")
# Of judge.
JUDGE = flags.DEFINE_string("judge", None, "judge: the folder of a run of experiments.classifier")
STEPS = flags.DEFINE_integer("steps", 50, "judge: sampling steps", lower_bound=1)
SAMPLER = cli.define_spec("sampler", "ddim", diffjax.samplers, "judge: how images are drawn")
SPACING = cli.define_spec(
    "spacing", None, diffjax.spacings, "judge: its times; by default those the sampler does best on"
)
# Of bpd.
BPD_STEPS = flags.DEFINE_integer(
    "bpd_steps", None, "bpd: steps of the discrete bound, by default the schedule's", lower_bound=1
)
BPD_DRAWS = flags.DEFINE_integer(
    "bpd_draws", 25, "bpd: times that a bound is seen at, of each image twice", lower_bound=1
)
ODE_STEPS = flags.DEFINE_integer(
    "ode_steps", 20, "bpd: steps of the probability flow, of four evaluations", lower_bound=1
)
PROBES = flags.DEFINE_integer(
    "probes", 1, "bpd: probes of the flow's divergence, of each image twice", lower_bound=1
)
OF_METRIC = {
    "judge": (JUDGE, STEPS, SAMPLER, SPACING),
    "bpd": (BPD_STEPS, BPD_DRAWS, ODE_STEPS, PROBES),
}


class Real(NamedTuple):
    """Real images in [-1, 1], and their labels where they are wanted."""

    images: Float[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, "N"] | None


def main() -> None:
    unknown = [metric for metric in CHOSEN.value if metric not in OF_METRIC]
    if unknown or not CHOSEN.value:
        raise UserError(f"--metrics={','.join(CHOSEN.value)}: choose among {', '.join(OF_METRIC)}")
    for metric, own in OF_METRIC.items():
        for flag in own:
            if flag.present and metric not in CHOSEN.value:
                raise UserError(f"--{flag.name} does nothing without --metrics={metric}")
    if "judge" in CHOSEN.value and JUDGE.value is None:
        raise UserError("judge needs --judge, a run of experiments.classifier; or --metrics=bpd")
    devices.split_cpu(devices.cores())
    run, config = RunFolder.open(RUN.value)
    path = run.path / "evaluation.json"
    read_saved(path)  # or it would be found broken when all is done
    likely = likely_images(config) if "bpd" in CHOSEN.value else None
    trained = load(RUN.value)
    if "judge" in CHOSEN.value:
        judge_samples(trained, load_judge(str(JUDGE.value)), path)
    if likely is not None:
        tell_bits(trained, likely, path)


def judge_samples(trained: Trained, judge: Judge, path: pathlib.Path) -> None:
    """Draws, looks, saves and prints."""
    check_fit(trained, judge)
    records = open_held_out(judge.config)
    num = affordable(NUM.value, len(records))
    reference, floor = halves(records, num, SEED.value)
    drawn, labels = draw(trained, num)
    look = make_judge(judge.model.apply, BATCH_SIZE.value)
    of_reference = look(judge.params, reference.images)
    samples = measure(look(judge.params, images.scaled(drawn)), of_reference, labels)
    real = measure(look(judge.params, floor.images), of_reference, floor.labels)
    save(path, {**settings(trained, judge, num), "samples": samples, "real": real})
    names = records.class_names or [str(i) for i in range(len(real["class_shares"]))]
    for title, drawn_column, real_column in table(samples, real, names):
        print(f"{title:<30}{drawn_column:>10}{real_column:>10}")
    print(f"{num} images of step {trained.step}, in {path}")


def likely_images(config: RunConfig) -> Real:
    """Held-out images whose bits/dim to tell, with the labels that the network takes.

    Raises UserError for a run whose network has no likelihood, and for too few images.
    """
    if config.consistent:
        raise UserError(
            f"bpd has no meaning for a student of {config.objective}, which tells where noise "
            "ends up, not what image to expect in it: measure its teacher"
        )
    records = open_held_out(config)
    held_out = len(records)
    if held_out < 2:
        raise UserError(f"the run's data set holds out {held_out} image: bpd needs 2 or more")
    if NUM.value > held_out:
        print(f"--num={NUM.value} is cut to {held_out}: the run's data set holds out no more")
    order = np.random.default_rng(SEED.value).permutation(held_out)[: NUM.value]
    return read(records, order, config.num_classes is not None)


def tell_bits(trained: Trained, real: Real, path: pathlib.Path) -> None:
    """Computes the images' bits/dim, saves and prints them."""
    steps = BPD_STEPS.value or trained.process.schedule.steps
    effort = Effort(steps, BPD_DRAWS.value, ODE_STEPS.value, PROBES.value)
    tell = make_measure(trained.model.apply, trained.process, trained.params, effort)

    def progress(work: list[Any]) -> Iterable[Any]:
        return tqdm.tqdm(work, "bits/dim", file=sys.stderr, disable=None, leave=False)

    values = tell(real.images, real.labels, SEED.value, BATCH_SIZE.value, progress)
    found = {name: estimate(bits) for name, bits in values.items()}
    said = {name: value._asdict() for name, value in found.items()}
    num = len(real.images)
    about = {"num": num, "step": trained.step, "seed": SEED.value, **dataclasses.asdict(effort)}
    save(path, {"bpd": {**about, **said}})
    for row in bits_table(found, steps):
        print("{:<36}{:>10}{:>10}{:>14}".format(*row))
    print(f"{num} held-out images, step {trained.step}, in {path}")


def bits_table(found: dict[str, Estimate], steps: int) -> list[tuple[str, str, str, str]]:
    """Title, mean, its standard error, and of that what is the draws'."""
    titles = {
        "discrete total": f"bound of {steps} steps",
        "continuous total": "bound of infinitely many steps",
        "flow": "probability flow",
    }
    rows = [("bits/dim", "mean", "error", "draws' alone")]
    for name, value in found.items():
        mean, error, of_draws = (f"{number:.4f}" for number in value)
        rows.append((titles.get(name, f"  {name.partition(' ')[2]}"), mean, error, of_draws))
    return rows


def open_held_out(config: RunConfig) -> Records:
    """What a run's data set holds out, in the run's size. Raises UserError where it has none."""
    training = config.training
    if "dataset" not in training:
        raise UserError(f"a run of experiments.{config.experiment} names no data set to look in")
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


def read(records: Records, indices: Int[np.ndarray, "N"], labelled: bool = True) -> Real:
    rows = [records[int(index)] for index in indices]
    labels = np.stack([r["label"] for r in rows]) if labelled else None
    return Real(np.stack([r["image"] for r in rows]), labels)


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


def read_saved(path: pathlib.Path) -> dict[str, Any]:
    """What earlier calls have found. Raises UserError for a file that cannot be read."""
    try:
        saved = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): move it away") from error
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds no figures of experiments.evaluate: move it away")
    return saved


def save(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes the values; what another metric has found before stays."""
    text = json.dumps({**read_saved(path), **values}, indent=2) + "\n"
    try:
        write_whole(path, lambda part: part.write_text(text))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


if __name__ == "__main__":
    cli.run(main)

"""The flags of guidance, for the programs that draw.

Which classes are drawn, how far each image is pushed to its own, and away from what.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import linen as nn
from jaxtyping import Array, Float, Int

from diffjax.errors import UserError
from diffjax.guidance.plan import Away, Guidance, Judged
from diffjax.trained import Trained, check_fit, load, load_judge, null_label

LABELS = flags.DEFINE_list("labels", None, "the classes to draw, in turn; by default all")
GUIDANCE = flags.DEFINE_list(
    "guidance", ["1"], "how far to go to the class, away from none: one scale, or one an image; 1 "
    "is off"
)  # fmt: skip
INTERVAL = flags.DEFINE_list(
    "guidance_interval", None, "low,high: guide only where low < sigma / alpha <= high"
)
RESCALE = flags.DEFINE_float(
    "guidance_rescale", 0.0, "the share, 0 to 1, of the spread of x0 that guidance gives back",
    lower_bound=0, upper_bound=1,
)  # fmt: skip
NEGATIVE = flags.DEFINE_integer("negative", None, "the class to go away from, in place of none")
WEAK = flags.DEFINE_string(
    "weak", None, "the folder of a worse run, whose prediction to go away from (autoguidance)"
)
APG_ETA = flags.DEFINE_float(
    "apg_eta", 1.0, "the share that is kept of guidance along x0; 0 is adaptive projected guidance"
)
APG_THRESHOLD = flags.DEFINE_float(
    "apg_threshold", math.inf, "the longest step in x0, in its norm over an image, to be scaled"
)
PERCENTILE = flags.DEFINE_float(
    "dynamic_threshold", None, "scale down each x0 by this percentile of its size, not clip it",
    lower_bound=0, upper_bound=100,
)  # fmt: skip
JUDGE = flags.DEFINE_string(
    "judge", None, "the folder of a run of experiments.classifier that guides by its gradient; it "
    "knows clean images only and is asked about the predicted one"
)  # fmt: skip
JUDGE_SCALE = flags.DEFINE_list(
    "judge_scale", ["1"], "how far the judge moves it: one scale, or one an image"
)
# What two runs must share for one to be guided away from the other.
PROCESS = ("image_shape", "schedule", "target", "sigma_data", "learned_variance", "consistent")
SHAPING = (INTERVAL, RESCALE, NEGATIVE, WEAK, APG_ETA, APG_THRESHOLD)


class Chosen(NamedTuple):
    """What the flags ask of a draw: labels for the run's network, guidance and its networks."""

    labels: Int[np.ndarray, "N"] | None
    guidance: Guidance
    weak: nn.Module | None
    judge: nn.Module | None


def choose(trained: Trained, num: int, classes_of: Int[np.ndarray, "N"] | None = None) -> Chosen:
    """The flags, for `num` images, of which `classes_of` may say the classes in place of --labels.

    Raises UserError for what the run cannot do.
    """
    judge = None if JUDGE.value is None else load_judge(JUDGE.value)
    if judge is not None:
        check_fit(trained, judge)
    elif JUDGE_SCALE.present:
        raise UserError("--judge_scale does nothing without --judge")
    classes = (trained if judge is None else judge).config.num_classes
    chosen = labels_of(classes, num) if classes_of is None else classes_of
    labels = None if trained.config.num_classes is None else chosen
    weak = None if WEAK.value is None else _load_weak(trained, WEAK.value)
    judged = None
    if judge is not None:
        scale = _scales(JUDGE_SCALE, num)
        judged = Judged(judge.params, scale, jnp.asarray(chosen))
    guidance = Guidance(_away(trained, weak, labels, num), judged, PERCENTILE.value)
    networks = (None if run is None else run.model for run in (weak, judge))
    return Chosen(labels, guidance, *networks)


def labels_of(classes: int | None, num: int) -> Int[np.ndarray, "N"] | None:
    """The classes of --labels in turn, or all of them."""
    if LABELS.value is None:
        return None if classes is None else np.arange(num) % classes
    if classes is None:
        raise UserError("--labels: this run knows no classes; --judge can guide it to some")
    return np.resize([_label("labels", text, classes) for text in LABELS.value], num)


def _label(flag: str, text: str | int, classes: int) -> int:
    if not str(text).strip().isdecimal() or int(text) >= classes:
        raise UserError(f"--{flag}={text}: choose a class from 0 to {classes - 1}")
    return int(text)


def _scales(flag: flags.FlagHolder[list[str]], num: int) -> Float[Array, "N"]:
    values = _numbers(flag.name, flag.value)
    if len(values) not in (1, num):
        raise UserError(f"--{flag.name} has {len(values)} scales: give one, or --num={num} of them")
    if not np.isfinite(values).all():
        raise UserError(f"--{flag.name}={','.join(flag.value)}: a scale is a finite number")
    return jnp.asarray(np.broadcast_to(np.asarray(values, np.float32), num))


def _numbers(flag: str, texts: list[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        text = ",".join(texts)
        raise UserError(f"--{flag}={text}: give numbers with commas between") from None


def _away(
    trained: Trained, weak: Trained | None, labels: Int[np.ndarray, "N"] | None, num: int
) -> Away | None:
    """The guidance away from no class, another class, or a weak run; None where it is off."""
    scale = _scales(GUIDANCE, num)
    low, high = _interval()
    if not APG_THRESHOLD.value > 0:
        raise UserError(f"--apg_threshold={APG_THRESHOLD.value}: choose a number above 0")
    if not math.isfinite(APG_ETA.value):
        raise UserError(f"--apg_eta={APG_ETA.value}: choose a finite number")
    if bool((scale == 1).all()):
        for flag in SHAPING:
            if flag.present:
                raise UserError(f"--{flag.name} does nothing at --guidance=1: choose a scale")
        return None
    cond = _unwanted(trained, weak, labels, num)
    return Away(
        scale,
        cond if cond is None else jnp.asarray(cond),
        None if weak is None else weak.params,
        low,
        high,
        RESCALE.value,
        APG_ETA.value,
        APG_THRESHOLD.value,
    )


def _interval() -> tuple[float, float]:
    if INTERVAL.value is None:
        return 0.0, math.inf
    values = _numbers(INTERVAL.name, INTERVAL.value)
    if len(values) != 2 or not 0 <= values[0] < values[1]:
        text = ",".join(INTERVAL.value)
        raise UserError(f"--guidance_interval={text}: give low,high with 0 <= low < high")
    return values[0], values[1]


def _unwanted(
    trained: Trained, weak: Trained | None, labels: Int[np.ndarray, "N"] | None, num: int
) -> Int[np.ndarray, "N"] | None:
    """The condition of the prediction to go away from."""
    if weak is not None:
        if NEGATIVE.value is not None:
            raise UserError("--negative and --weak both say what to go away from: leave one out")
        return None if weak.config.num_classes is None else labels
    classes, null = trained.config.num_classes, null_label(trained.config, trained.model)
    if NEGATIVE.value is not None:
        if classes is None:
            raise UserError("--negative: this run knows no classes")
        return np.full(num, _label("negative", NEGATIVE.value, classes))
    if null is None:
        raise UserError(
            "--guidance needs something to go away from: a run of experiments.ddpm with "
            "--cond_drop, --negative=LABEL, or --weak=RUN"
        )
    return np.full(num, null)


def _load_weak(trained: Trained, folder: str) -> Trained:
    """The run in `folder`. Raises UserError where it is not another of the same task."""
    weak = load(folder)
    for what in PROCESS:
        own, other = getattr(trained.config, what), getattr(weak.config, what)
        if own != other:
            raise UserError(f"--weak={folder} has {what}={other} and --run {own}: they must agree")
    if weak.process.bind(weak.params) is not weak.process:
        raise UserError(f"--weak={folder} has learnt a schedule of its own: choose another run")
    if weak.config.num_classes not in (None, trained.config.num_classes):
        raise UserError(
            f"--weak={folder} has {weak.config.num_classes} classes and --run "
            f"{trained.config.num_classes or 'none'}: they must agree"
        )
    return weak

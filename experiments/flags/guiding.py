"""The flags of guidance, for the programs that draw.

Which classes are drawn, how far each image is pushed to its own, and away from what.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, Int

from diffjax import runs
from diffjax.conditions.label import Label
from diffjax.errors import UserError, listed
from diffjax.guidance.base import are_scales
from diffjax.guidance.classifier import ClassLogProb
from diffjax.guidance.plan import Away, Guidance, Judged
from diffjax.runs import Run
from diffjax.tasks.classifier import CLASSIFIER
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.tasks.text_to_image import checked
from diffjax.tasks.towers import Towers
from diffjax.typing import Cond
from experiments.flags import kinds, weak
from experiments.flags.judges import load_judge
from experiments.flags.making import Chosen

flags.adopt_module_key_flags(weak)
LABELS = flags.DEFINE_list(
    "labels", None, "the classes to draw, by name or number, in turn; by default all"
)
PROMPTS = flags.DEFINE_multi_string(
    "prompts", None, "a text, of a run that draws from texts; given again, another, in turn"
)
GUIDANCE = flags.DEFINE_list(
    "guidance", ["1"], "how far to go to the class, away from none: one scale, or one an image; 1 "
    "is off"
)  # fmt: skip
INTERVAL = flags.DEFINE_list(
    "guidance_interval", None, "low,high: guide only where low < sigma / alpha <= high"
)
RESCALE = kinds.define_number(
    "guidance_rescale", 0.0, "the share, 0 to 1, of the spread of x0 that guidance gives back",
    lower_bound=0, upper_bound=1,
)  # fmt: skip
NEGATIVE = flags.DEFINE_string(
    "negative", None, "the class, or the text, to go away from, in place of none"
)  # fmt: skip
APG_ETA = kinds.define_number(
    "apg_eta", 1.0, "the share that is kept of guidance along x0; 0 is adaptive projected guidance"
)
APG_THRESHOLD = kinds.define_number(
    "apg_threshold",
    None,
    "the longest step in x0, in its norm over an image; longer ones are scaled",
)
PERCENTILE = kinds.define_number(
    "dynamic_threshold", None, "scale down each x0 by this percentile of its size, not clip it",
    lower_bound=0, upper_bound=100,
)  # fmt: skip
JUDGE = kinds.define_path(
    "judge", None, "the folder of a run of experiments.classifier that guides by its gradient; it "
    "knows clean images only and is asked about the predicted one"
)  # fmt: skip
JUDGE_SCALE = flags.DEFINE_list(
    "judge_scale", ["1"], "how far the judge moves it: one scale, or one an image"
)
CLIP = kinds.define_path(
    "clip", None, "the folder of a run of experiments.clip, or of a CLIP's files, that guides to "
    "--clip_text by its gradient; it knows clean images only and is asked about the predicted one"
)  # fmt: skip
CLIP_TEXT = flags.DEFINE_multi_string(
    "clip_text", None, "the text to guide to; may be given more than once, then one text per image "
    "in turn"
)  # fmt: skip
CLIP_SCALE = flags.DEFINE_list(
    "clip_scale", ["100"], "times the cosine of image and text, whose gradient guides: one scale, "
    "or one an image"
)  # fmt: skip
SHAPING = (INTERVAL, RESCALE, NEGATIVE, weak.WEAK, weak.WEAK_STEP, APG_ETA, APG_THRESHOLD)


def choose(
    run: Run[DenoiserTask], num: int, labels: Sequence[Any] | None = None,
    scales: Sequence[float] | None = None,
) -> Chosen:  # fmt: skip
    """The flags, for `num` images; labels, scales: in place of --labels and --guidance.

    Raises UserError for what the run cannot do.
    """
    task = run.task
    towers = _load_towers(task)
    judge = None if JUDGE.value is None else load_judge(JUDGE.value, task)
    if judge is None and JUDGE_SCALE.present:
        raise UserError("--judge_scale does nothing without --judge")
    asked = _labels(task) if labels is None else labels
    told = asked
    if judge is not None and task.condition.classes is None:
        told = None  # the judge alone knows the classes
    cond = task.cond_of(run.components, told, num)
    worse = weak.load(task)
    judged = None
    if judge is not None:
        scale, names = scales_of(JUDGE_SCALE, num), task.condition.names
        classes = Label(judge.task.classes, names=names)
        judged = Judged(
            ClassLogProb(judge.task.model), judge[CLASSIFIER].params, scale,
            classes.asked(asked, num),
        )  # fmt: skip
    if towers is not None:
        judged = towers.towards(CLIP_TEXT.value or (), scales_of(CLIP_SCALE, num).tolist(), num)
    if judged is not None:
        judged = task.shown_to(run.components, judged)
    scale = scales_of(GUIDANCE, num) if scales is None else jnp.asarray(scales, jnp.float32)
    guidance = Guidance(_away(run, worse, cond, scale), judged, PERCENTILE.value)
    return Chosen(cond, guidance, None if worse is None else worse.task.model)


def _load_towers(task: DenoiserTask) -> Towers | None:
    """The towers of --clip. Raises UserError for flags of --clip that do not go together."""
    if CLIP.value is None:
        for flag in (CLIP_TEXT, CLIP_SCALE):
            if flag.present:
                raise UserError(f"--{flag.name} does nothing without --clip")
        return None
    if JUDGE.value is not None:
        raise UserError("--clip and --judge both guide by a gradient: leave one out")
    if not CLIP_TEXT.value:
        raise UserError("--clip needs a text to guide to: pass --clip_text")
    return runs.load_towers(CLIP.value)


def _labels(task: DenoiserTask) -> Sequence[Any] | None:
    """The classes or texts that the flags ask for. Raises UserError for those of another run."""
    if task.asks_captions:
        if LABELS.present or not PROMPTS.value:
            raise UserError("this run draws from texts: give --prompts='a text', and no --labels")
        return checked(PROMPTS.value, PROMPTS.name)
    if PROMPTS.present:
        raise UserError("--prompts are for a run of experiments.text_to_image: leave them out")
    return LABELS.value


def texts(task: DenoiserTask, num: int) -> list[str]:
    """The text of each of `num` images, of a run that draws from texts."""
    prompts = PROMPTS.value if task.asks_captions else None
    return [prompts[i % len(prompts)] for i in range(num)] if prompts else []


def strengths() -> list[float] | None:
    """The scales of --guidance, where it is given."""
    return _finite(GUIDANCE) if GUIDANCE.present else None


def scales_of(flag: flags.FlagHolder[list[str]], num: int) -> Float[Array, "N"]:
    """The scale of each of `num` images. Raises UserError for other numbers of them."""
    values = _finite(flag)
    if len(values) not in (1, num):
        raise UserError(f"--{flag.name} has {len(values)} scales: give one, or --num={num} of them")
    return jnp.asarray(np.broadcast_to(np.asarray(values, np.float32), num))


def _finite(flag: flags.FlagHolder[list[str]]) -> list[float]:
    values = _numbers(flag.name, flag.value)
    if not values or not are_scales(values):
        raise UserError(f"--{flag.name}={','.join(flag.value)}: a scale is a finite float32 number")
    return values


def _numbers(flag: str, texts: list[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        text = ",".join(texts)
        raise UserError(f"--{flag}={text}: give numbers with commas between") from None


def _away(
    run: Run[DenoiserTask], worse: Run[DenoiserTask] | None, cond: Cond, scale: Float[Array, "N"]
) -> Away | None:
    """The guidance away from no condition, a negative one, or a weak run; None where it is off."""
    low, high = _interval()
    if APG_THRESHOLD.value is not None and APG_THRESHOLD.value <= 0:
        raise UserError(f"--apg_threshold={APG_THRESHOLD.value}: choose a number above 0")
    if bool((scale == 1).all()):
        for flag in SHAPING:
            if flag.present:
                raise UserError(f"--{flag.name} does nothing at --guidance=1: choose a scale")
        return None
    return Away(
        scale,
        _unwanted(run, worse, cond, len(scale)),
        None if worse is None else worse[DENOISER].params,
        low,
        high,
        RESCALE.value,
        APG_ETA.value,
        math.inf if APG_THRESHOLD.value is None else APG_THRESHOLD.value,
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
    run: Run[DenoiserTask], worse: Run[DenoiserTask] | None, cond: Cond, num: int
) -> Cond:
    """The condition of the prediction to go away from."""
    if worse is not None:
        if NEGATIVE.value is not None:
            raise UserError("--negative and --weak both say what to go away from: leave one out")
        return cond if worse.task.condition.batch_keys else None
    if NEGATIVE.value is not None:
        try:
            return run.task.cond_of(run.components, [NEGATIVE.value], num)
        except UserError as error:
            raise UserError(str(error), NEGATIVE.name) from error
    return run.task.condition.unwanted(cond)


def taken_for(classes: Int[np.ndarray, "P"] | None, names: Sequence[str]) -> str:
    """What to tell the user of the classes that were not given."""
    if classes is None or LABELS.present:
        return ""
    found = listed([names[label] if names else str(label) for label in classes])
    return f", taken for classes {found}: --labels would say others"

"""Images that a run draws, and what a judge sees in them, beside real ones."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jaxtyping import Float, Int, UInt8

import diffjax.samplers
import diffjax.spacings
from diffjax import spec
from diffjax.data import Records, images
from diffjax.errors import UserError
from diffjax.generate import times_of
from diffjax.guidance.base import are_scales
from diffjax.guidance.plan import Guidance
from diffjax.metrics.attributes import attributes_of
from diffjax.metrics.checkerboard import checkerboard_energy
from diffjax.metrics.comparison import FIGURES, check, compare
from diffjax.metrics.extractors import (
    Extractor,
    Features,
    inception_v3,
    judge_features,
    make_features,
    mobilenet_v2,
)
from diffjax.metrics.judge import (
    Opinion,
    agreement,
    check_knows,
    class_shares,
    confidence,
    make_judge,
)
from diffjax.runs import Run, RunConfig, Training
from diffjax.tasks.classifier import CLASSIFIER, Classification
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from experiments.evaluations import held_out
from experiments.evaluations.held_out import BATCH_SIZE, NUM, SEED
from experiments.flags import kinds, specs, watermarking, weak
from experiments.flags.judges import load_judge
from experiments.flags.making import Chosen, Wanted, draw_edit

EXTRACTORS = {"mobilenet_v2": mobilenet_v2, "inception_v3": inception_v3}
JUDGE = kinds.define_path("judge", None, "the folder of a run of experiments.classifier")
STEPS = kinds.define_integer("steps", 50, "sampling steps", lower_bound=1)
SAMPLER = specs.define_spec("sampler", "ddim", diffjax.samplers, "how images are drawn")
SPACING = specs.define_spec(
    "spacing", None, diffjax.spacings, "its times; by default those the sampler does best on"
)
GUIDANCE = flags.DEFINE_list(
    "guidance", None,
    "how far images go to their class, away from none: 1 is off, and the default; of the sweep the "
    "scales, by default -2 to 8",
)  # fmt: skip
EXTRACTOR = flags.DEFINE_enum(
    "extractor", "judge", ["judge", *EXTRACTORS],
    "whose features stand for the images; all but the judge's need --weights",
)  # fmt: skip
WEIGHTS = kinds.define_path(
    "weights", None, "the extractor's weights: torchvision's of mobilenet_v2, pytorch-fid's of "
    "inception_v3, as .npz or .safetensors"
)  # fmt: skip
CHOSEN = flags.DEFINE_list("figures", list(FIGURES), "what is said of the features")
DRAWING = (STEPS, SAMPLER, SPACING, GUIDANCE)
flags.adopt_module_key_flags(watermarking)
flags.adopt_module_key_flags(weak)
OF_IMAGES = (watermarking.WATERMARK, weak.WEAK, weak.WEAK_STEP)
FEATURES = (EXTRACTOR, WEIGHTS, CHOSEN)


class Seen(NamedTuple):
    """What the judge and the extractor make of images, and the labels that these should have."""

    logits: Float[np.ndarray, "N K"]
    features: Features
    checkerboard: float  # the mean share of energy that repeats from one 2x2 block to the next
    labels: Int[np.ndarray, "N"] | None
    attributes: dict[str, Float[np.ndarray, "N"]]


@dataclasses.dataclass(frozen=True)
class Bench:
    """A judge and an extractor, and two sets of real images: the reference and the floor."""

    opinion: Callable[[Float[np.ndarray, "N H W C"]], Opinion]
    look: Callable[[Float[np.ndarray, "N H W C"], Int[np.ndarray, "N"] | None], Seen]
    judge: Run[Classification]
    records: Records
    reference: Seen
    floor: Seen
    num: int

    def see(self, drawn: UInt8[np.ndarray, "N H W C"], labels: Int[np.ndarray, "N"] | None) -> Seen:
        """Drawn images, of the labels that were asked for."""
        return self.look(images.scaled(drawn), labels)

    def compare(self, seen: Seen) -> dict[str, Any]:
        """All that is said of drawn images and, under "real", of the floor, by the reference."""
        sets = (side.features for side in (seen, self.reference, self.floor))
        found = compare(*sets, figures=CHOSEN.value, seed=SEED.value)
        found["num"] = self.num
        for name, side in (("samples", seen), ("real", self.floor)):
            said = found[name]
            found[name] = {
                "confidence": confidence(side.logits),
                "agreement": None if side.labels is None else agreement(side.logits, side.labels),
                **{figure: value["value"] for figure, value in said.items()},
                **{f"{figure}_bias": v["bias"] for figure, v in said.items() if "bias" in v},
                "checkerboard": side.checkerboard,
                "class_shares": class_shares(side.logits).tolist(),
                "intervals": {figure: [v["low"], v["high"]] for figure, v in said.items()},
            }
        return found

    def about(self, run: Run[DenoiserTask]) -> dict[str, Any]:
        """What else a reader needs to measure again."""
        return {
            "step": run.step,
            "sampler": SAMPLER.value,
            "spacing": SPACING.value,
            "watermarked": watermarking.WATERMARK.value is not None,
            "weak": weak.WEAK.value,
            "weak_step": weak.WEAK_STEP.value,
            "steps": STEPS.value,
            "seed": SEED.value,
            "judge": JUDGE.value,
            "judge_step": self.judge.step,
            "judge_dataset": self.judge.config.training.dataset,
        }


def set_up(run: Run[Any]) -> Bench:
    """The judge of --judge at work. Raises UserError for one that does not fit the run."""
    judge = load_judge(str(JUDGE.value), run.task)
    apply, params = judge.task.model.apply, judge[CLASSIFIER].params
    records = held_out.open_held_out(judge.config)
    num = held_out.affordable(NUM.value, len(records))
    opinion = partial(make_judge(apply, BATCH_SIZE.value), params)
    own = judge_features(apply, params, judge.task.image_shape)
    other = chosen_extractor()
    features_of = None if other is None else make_features(other, BATCH_SIZE.value)

    def look(x: Float[np.ndarray, "N H W C"], labels: Int[np.ndarray, "N"] | None) -> Seen:
        logits, rows = opinion(x)
        features = Features(rows, own) if features_of is None else features_of(x)
        energy = float(checkerboard_energy(x).mean())
        return Seen(logits, features, energy, labels, attributes_of(x))

    reference, floor = (look(*real) for real in held_out.halves(records, num, SEED.value))
    check({"reference": reference.features, "floor": floor.features}, CHOSEN.value)
    check_data(run.config, opinion, floor)
    return Bench(opinion, look, judge, records, reference, floor, num)


def check_data(
    config: RunConfig[Any] | Training,
    opinion: Callable[[Float[np.ndarray, "N H W C"]], Opinion],
    own: Seen,
) -> None:
    """Raises UserError for a judge that knows its own images and not a run's.

    It is asked about as many that the run's data set holds out, where they can be had with labels.
    """
    try:
        records = held_out.open_held_out(config)
    except UserError:
        return  # moved, or not on this machine: what the judge itself has learnt is there
    if records.num_classes is None or own.labels is None:
        return
    order = np.random.default_rng(SEED.value).permutation(len(records))[: len(own.labels)]
    x, labels = held_out.read(records, order)
    check_knows(opinion(x).logits, labels, own.logits, own.labels)


def chosen_extractor() -> Extractor | None:
    """The one of --extractor and --weights; None is the judge."""
    name, path = EXTRACTOR.value, WEIGHTS.value
    if name == "judge":
        if path is not None:
            raise UserError("--weights does nothing without --extractor")
        return None
    if path is None:
        raise UserError(f"--extractor={name} needs its weights: pass --weights=FILE")
    return EXTRACTORS[name](path)


class Drawing:
    """The run's images at any scale of guidance, from the same noise, compiled once."""

    def __init__(self, run: Run[DenoiserTask], guided: bool) -> None:
        """Raises UserError for guidance of a run that cannot be guided."""
        self._run, self._guided = run, guided
        self._sampler = spec.build(SAMPLER.value, diffjax.samplers)
        self._sampler.check(run.task.process)
        self._spacing = specs.spacing_of(SPACING.value, self._sampler)
        self._watermark, self._weak = watermarking.chosen(), weak.load(run.task)
        if self._weak is not None:
            if not guided:
                raise UserError("--weak does nothing at --guidance=1: choose a scale")
            if self._weak.task.model != run.task.model:
                raise UserError(
                    f"--weak={weak.WEAK.value} has another network than --run: here it must have "
                    "the same; experiments.sample takes it"
                )
        elif guided:
            run.task.condition.unwanted(run.task.condition.asked(None, 1))

    def labels(self, num: int) -> Int[np.ndarray, "N"] | None:
        """The classes asked for, in turn, where the run takes some."""
        classes = self._run.task.condition.classes
        return None if classes is None else np.arange(num) % classes

    def __call__(self, num: int, scale: float) -> UInt8[np.ndarray, "N H W C"]:
        task = self._run.task
        cond = task.condition.asked(None, num)
        guidance = Guidance()
        if self._guided:
            # Also at scale 1: so that a sweep compiles once.
            of_weak = () if self._weak is None else (cond, self._weak[DENOISER].params)
            guidance = task.away(scale, cond, num, *of_weak)
        if self._watermark is not None:
            times = times_of(task.process, self._run[DENOISER].params, self._spacing, STEPS.value)
            chosen = Chosen(cond, guidance, None)
            wanted = Wanted(
                self._run, self._sampler, times, num, chosen, SEED.value, BATCH_SIZE.value
            )
            return draw_edit(wanted, watermarking.start(wanted, self._watermark), times)
        drawn = self._run.sample(
            jax.random.key(SEED.value), labels=self.labels(num), num=num, steps=STEPS.value,
            sampler=self._sampler, spacing=self._spacing, guidance=guidance,
            batch_size=BATCH_SIZE.value,
        )  # fmt: skip
        return images.to_uint8(np.asarray(drawn))


def scales(default: list[float]) -> list[float]:
    """The numbers of --guidance. Raises UserError for what are none."""
    if GUIDANCE.value is None:
        return default
    text = ",".join(GUIDANCE.value)
    try:
        values = [float(value) for value in GUIDANCE.value]
    except ValueError:
        values = []
    if not values or not are_scales(values):
        raise UserError(f"--guidance={text}: give finite numbers with commas between")
    return values


def one_scale() -> float:
    """The number of --guidance. Raises UserError for more than one."""
    values = scales([1.0])
    if len(values) > 1:
        text = ",".join(map("{:g}".format, values))
        raise UserError(f"--guidance={text}: give one scale, or --metrics=guidance")
    return values[0]

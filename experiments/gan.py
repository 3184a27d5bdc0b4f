"""Trains a generator against a discriminator, draws what it makes, and counts what it leaves out.

python -m experiments.gan --flagfile=experiments/flagfiles/gan_fashion_mnist.flags --judge=RUN
The judge, a run of experiments.classifier, says which of the classes are drawn, and how often.
"""

import json
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Float, Int

import diffjax.models.gan
from diffjax import runs
from diffjax.data import Records, images
from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.metrics.judge import (
    Opinion,
    agreement,
    check_knows,
    class_shares,
    confidence,
    make_judge,
)
from diffjax.objectives.adversarial import GAMES
from diffjax.runs import Run
from diffjax.tasks.classifier import CLASSIFIER, Classification
from diffjax.tasks.gan import GAN, Game, Pictures
from diffjax.training.optimizers import two_time_scales
from experiments.flags import kinds, learning, presets, specs
from experiments.start import command

flags.adopt_module_key_flags(learning)
# What a run is, besides learning.IDENTITY; --learning_rate is the generator's.
MODEL = specs.define_spec("model", "dcgan", diffjax.models.gan, "the two networks")
LOSS = flags.DEFINE_enum("loss", "non_saturating", list(GAMES), "what each of them loses")
R1 = kinds.define_number(
    "r1", 1.0, "how much the discriminator's slope at real images costs; 0 is not at all", 0
)
DISCRIMINATOR_RATE = kinds.define_number(
    "discriminator_rate", 4e-4, "its own rate, where --learning_rate is the generator's", 0
)
# What is shown of it: free to change when the run is taken up again.
SAMPLE_EVERY = kinds.define_integer("sample_every", 500, "steps to a picture", lower_bound=1)
NUM_SAMPLES = kinds.define_integer("num_samples", 100, "images in a picture", lower_bound=1)
JUDGE = kinds.define_path(
    "judge", None, "a run of experiments.classifier, which counts the classes drawn in the end"
)
OWN = (MODEL, LOSS, R1, DISCRIMINATOR_RATE, SAMPLE_EVERY, NUM_SAMPLES, JUDGE)
presets.define_preset(
    smoke={
        "model": "dcgan(channels=(32,16))", "batch_size": 16, "steps": 60, "log_every": 20,
        "checkpoint_every": 60, "sample_every": 30, "num_samples": 25,
    }
)  # fmt: skip

JUDGED = 1000  # images; of real ones no more than are held out of training
SEEN = 0.02  # of them: from this share on a class counts as drawn
JUDGE_BATCH = 100


def main() -> None:
    with learning.processes():
        records = learning.open_records()
        task = describe(records)
        census = None if JUDGE.value is None else make_census(JUDGE.value, records)
        rates = two_time_scales(
            {"generator": learning.LEARNING_RATE.value, "discriminator": task.discriminator_rate},
            warmup_steps=learning.WARMUP_STEPS.value,
        )

        learning.train(
            task, records, learning.flags_text("gan", OWN),
            Pictures(NUM_SAMPLES.value, learning.SEED.value), SAMPLE_EVERY.value,
            optimizer=rates, steady=True, done=census,
        )  # fmt: skip


def describe(records: Records) -> GAN:
    """This run's task: the flags, and what follows from the data."""
    learning.refuse_for_two()
    height, width, channels = records.image_shape
    if height != width:
        raise UserError(f"images of {height}x{width} are not square: give an --image_size")
    wanted = {"sample_size": height, "image_channels": channels}
    return GAN(
        model=learning.build_for(MODEL.value, diffjax.models.gan, wanted),
        image_shape=records.image_shape,
        game=typing.cast(Game, LOSS.value),
        r1=R1.value,
        discriminator_rate=DISCRIMINATOR_RATE.value,
    )


def make_census(folder: str, records: Records) -> Callable[[Run[Any]], None]:
    """A function that asks the judge in `folder` which classes are drawn, and saves and prints it.

    Beside it stands what the judge says of real images. Raises UserError for a judge of other
    images or classes, also where this shows in nothing but its answers.
    """
    judge = runs.load(folder, Classification)
    check_form(folder, judge.task, records)
    look = make_judge(judge.task.model.apply, JUDGE_BATCH)
    own = judge.open("test", learning.DATA_DIR.value)
    (logits, labels), of_its_own = (
        answers(judge, look, held_out) for held_out in (learning.open_held_out(), own)
    )
    check_knows(logits, labels, *of_its_own)
    real = {"num": len(labels), **opinion(logits), "agreement": agreement(logits, labels)}
    names = records.class_names or [str(i) for i in range(len(real["class_shares"]))]

    def census(run: Run[Any]) -> None:
        drawn = np.asarray(run.sample(jax.random.key(learning.SEED.value), num=JUDGED))
        seen = look(judge[CLASSIFIER].params, images.scaled(images.to_uint8(drawn)))
        samples = {"num": JUDGED, **opinion(seen.logits)}
        about = {"step": run.step, "judge": folder, "judge_step": judge.step}
        values = {**about, "samples": samples, "real": real}
        write_text(run.folder.path / "coverage.json", json.dumps(values, indent=2) + "\n")
        for row in table(samples, real, names):
            learning.say("{:<34}{:>10}{:>10}".format(*row))

    return census


def answers(
    judge: Run[Classification], look: Callable[..., Opinion], held_out: Records
) -> tuple[Float[np.ndarray, "N K"], Int[np.ndarray, "N"]]:
    """The judge's logits of real images, and their labels."""
    order = np.random.default_rng(learning.SEED.value).permutation(len(held_out))[:JUDGED]
    rows = [held_out[int(i)] for i in order]
    logits = look(judge[CLASSIFIER].params, np.stack([row["image"] for row in rows])).logits
    return logits, np.stack([row["label"] for row in rows])


def check_form(folder: str, judged: Classification, records: Records) -> None:
    """Raises UserError for a judge of images or classes of another number."""
    again = "train a judge with this --dataset and --image_size"
    if judged.image_shape != records.image_shape:
        drawn, known = ("x".join(map(str, s)) for s in (records.image_shape, judged.image_shape))
        raise UserError(
            f"--judge={folder} knows images of {known}, and these have {drawn}: {again}"
        )
    if judged.classes != records.num_classes:
        raise UserError(
            f"--judge={folder} knows {judged.classes} classes, and --dataset has "
            f"{records.num_classes or 'none'}: {again}"
        )


def opinion(logits: Float[np.ndarray, "N K"]) -> dict[str, Any]:
    """What a judge says of images: how sure it is, and which classes it sees."""
    shares = class_shares(logits)
    return {
        "confidence": confidence(logits),
        "classes": int((shares >= SEEN).sum()),
        "class_shares": shares.tolist(),
    }


def table(
    samples: dict[str, Any], real: dict[str, Any], names: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Title, drawn images' and real ones' column, row by row."""
    shares = zip(names, samples["class_shares"], real["class_shares"], strict=True)
    return [
        ("", "drawn", "real"),
        ("images", str(samples["num"]), str(real["num"])),
        ("judge's confidence", f"{samples['confidence']:.3f}", f"{real['confidence']:.3f}"),
        ("judge agrees with label", "-", f"{real['agreement']:.3f}"),
        (f"classes with {SEEN:.0%} or more", str(samples["classes"]), str(real["classes"])),
        *((f"share of {name}", f"{drawn:.3f}", f"{own:.3f}") for name, drawn, own in shares),
    ]


if __name__ == "__main__":
    command.run(main)

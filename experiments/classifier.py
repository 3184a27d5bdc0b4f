"""Trains a classifier, the judge that experiments.evaluate asks about drawn images.

python -m experiments.classifier --flagfile=experiments/flagfiles/classifier_fashion_mnist.flags
"""

import json
from collections.abc import Callable

from absl import flags
from flax import linen as nn

import diffjax.data
import diffjax.models
from diffjax import spec
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.metrics.judge import make_judge
from diffjax.objectives.classification import classification_loss
from diffjax.trained import build_judge, init_judge_params
from diffjax.training.run import RunConfig, RunFolder
from diffjax.typing import Params
from experiments import training
from experiments.flags import specs
from experiments.start import command

flags.adopt_module_key_flags(training)
# What a run is, besides training.IDENTITY.
MODEL = specs.define_spec("model", "classifier", diffjax.models, "the network")
FLIP = flags.DEFINE_boolean(
    "flip", True, "learn from images turned left to right too; not for digits or letters"
)
SHIFT = flags.DEFINE_integer("shift", 1, "learn from images moved by up to so many pixels", 0)
# What is shown of it: free to change when the run is taken up again.
EVAL_EVERY = flags.DEFINE_integer("eval_every", 1000, "steps to a held-out accuracy", 1)
OWN = (MODEL, FLIP, SHIFT, EVAL_EVERY)

JUDGE_BATCH = 256


def main() -> None:
    with training.processes():
        records = training.open_records()
        config = describe(records)
        held_out = training.open_held_out(config)
        model = build_judge(config)
        with training.run_folder(config, training.flags_text("classifier", OWN)) as run:
            task = training.Task(
                lambda key: init_judge_params(model, config, key),
                classification_loss(model.apply, flip=FLIP.value, shift=SHIFT.value),
                ("image", "label"),
                make_exam(run, held_out, model),
                EVAL_EVERY.value,
            )
            step = int(training.train_run(run, records, task).step)
        if step < training.STEPS.value:
            training.say(f"stopped at step {step}: the same command goes on from there")
        else:
            training.say(f"done: step {step}, see {run.report}")


def describe(records: Records) -> RunConfig:
    """This run's config: the flags, and what follows from the data."""
    if records.num_classes is None:
        raise UserError(
            f"--dataset={training.DATASET.value} has no labels to learn: choose another"
        )
    model = spec.build(MODEL.value, diffjax.models, {"num_classes": records.num_classes})
    classes = getattr(model, "num_classes", None)
    if classes is None:
        raise UserError(f"--model={MODEL.value} is no classifier: it has no num_classes")
    if classes != records.num_classes:
        raise UserError(
            f"--model has num_classes={classes}, but {training.DATASET.value} has "
            f"{records.num_classes}: leave it out"
        )
    return RunConfig(
        experiment="classifier",
        model=spec.render(model),
        image_shape=records.image_shape,
        num_classes=records.num_classes,
        training={**training.identity(), FLIP.name: FLIP.value, SHIFT.name: SHIFT.value},
    )


def make_exam(run: RunFolder, held_out: Records, model: nn.Module) -> Callable[[int, Params], None]:
    """A function that measures weights on the held-out images, says so and writes accuracy.json."""
    judge = make_judge(model.apply, JUDGE_BATCH)

    def exam(step: int, params: Params) -> None:
        right = sum(
            int((judge(params, batch["image"]).logits.argmax(1) == batch["label"]).sum())
            for batch in diffjax.data.epoch(held_out, JUDGE_BATCH)
        )
        images, accuracy = len(held_out), right / len(held_out)
        training.say(f"step {step}: {accuracy:.2%} of {images} held-out images right")
        text = json.dumps({"step": step, "accuracy": accuracy, "images": images}) + "\n"
        write_text(run.path / "accuracy.json", text)

    return exam


if __name__ == "__main__":
    command.run(main)

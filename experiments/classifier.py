"""Trains a classifier, the judge that experiments.evaluate asks about drawn images.

python -m experiments.classifier --flagfile=experiments/flagfiles/classifier_fashion_mnist.flags
"""

from absl import flags

import diffjax.models
from diffjax import spec
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.tasks.classifier import Classification, Exam
from experiments.flags import kinds, learning, specs
from experiments.start import command

flags.adopt_module_key_flags(learning)
# What a run is, besides learning.IDENTITY.
MODEL = specs.define_spec("model", "classifier", diffjax.models, "the network")
FLIP = flags.DEFINE_boolean(
    "flip", True, "learn from images turned left to right too; not for digits or letters"
)
SHIFT = kinds.define_integer("shift", 1, "learn from images moved by up to so many pixels", 0)
# What is shown of it: free to change when the run is taken up again.
EVAL_EVERY = kinds.define_integer("eval_every", 1000, "steps to a held-out accuracy", 1)
OWN = (MODEL, FLIP, SHIFT, EVAL_EVERY)


def main() -> None:
    with learning.processes():
        records = learning.open_records()
        task = describe(records)
        exam = Exam(learning.open_held_out(), learning.say)
        text = learning.flags_text("classifier", OWN)
        learning.train(task, records, text, exam, EVAL_EVERY.value)


def describe(records: Records) -> Classification:
    """This run's task: the flags, and what follows from the data."""
    classes = records.num_classes
    if classes is None:
        raise UserError(
            f"--dataset={learning.DATASET.value} has no labels to learn: choose another"
        )
    model = spec.build(MODEL.value, diffjax.models, {"num_classes": classes})
    task = Classification(
        model=model, image_shape=records.image_shape, flip=FLIP.value, shift=SHIFT.value
    )
    if task.classes != classes:
        raise UserError(
            f"--model has num_classes={task.classes}, but {learning.DATASET.value} has "
            f"{classes}: leave it out"
        )
    return task


if __name__ == "__main__":
    command.run(main)

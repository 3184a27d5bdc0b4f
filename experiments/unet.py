"""Trains a U-Net to see through noise, or to tell what each pixel is a part of.

python -m experiments.unet --flagfile=experiments/flagfiles/unet_denoise.flags
python -m experiments.unet --flagfile=experiments/flagfiles/unet_segment.flags --upsample=bilinear
"""

import json
import typing
from typing import Any

from absl import flags

import diffjax.models
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.models.upsampling import Way
from diffjax.runs import Run
from diffjax.tasks.examined import Exam, ExaminedTask
from diffjax.tasks.restoration import Restoration
from diffjax.tasks.segmentation import Segmentation
from experiments.flags import kinds, learning, presets, specs
from experiments.start import command

flags.adopt_module_key_flags(learning)
COMPOSITES = "composites(of='embedded')"
# What a run is, besides learning.IDENTITY.
TASK = flags.DEFINE_enum(
    "task", "denoise", ["denoise", "segment", "segment_classes"],
    "what is learnt: the image under half its strength in noise; which pixels are a thing; which "
    f"are a thing of which class. The last two by default of --dataset={COMPOSITES}",
)  # fmt: skip
MODEL = specs.define_spec(
    "model",
    "course_unet(form='first',channels=(16,32,64),norm='batch',activation='relu',pooling='max')",
    diffjax.models,
    "the network; by default that of the course's first notebook",
)
UPSAMPLE = flags.DEFINE_enum(
    "upsample", "transposed", list(typing.get_args(Way)), "how it doubles height and width"
)
# What is shown of it: free to change when the run is taken up again.
EVAL_EVERY = kinds.define_integer("eval_every", 500, "steps to held-out figures and a picture", 1)
OWN = (TASK, MODEL, UPSAMPLE, EVAL_EVERY)
presets.define_preset(
    smoke={
        "batch_size": 16, "steps": 60, "log_every": 20, "checkpoint_every": 60, "eval_every": 30
    }
)  # fmt: skip


def main() -> None:
    with learning.processes():
        if TASK.value != "denoise":
            flags.FLAGS.set_default(learning.DATASET.name, COMPOSITES)
        records = learning.open_records()
        task = describe(records)
        exam = Exam(learning.open_held_out(), learning.say, learning.SEED.value)
        text = learning.flags_text("unet", OWN)
        learning.train(task, records, text, exam, EVAL_EVERY.value, done=say_by_class)


def class_names(records: Records) -> tuple[str, ...]:
    """What a pixel may be part of; the first is no thing."""
    if TASK.value == "segment":
        return "background", "thing"
    classes = records.num_classes or 0
    return "background", *(records.class_names or map(str, range(classes)))


def describe(records: Records) -> ExaminedTask:
    """This run's task: the flags, and what follows from the data."""
    height, width, channels = records.image_shape
    segments = TASK.value != "denoise"
    if segments and "mask" not in records[0]:
        raise UserError(
            f"--task={TASK.value}: --dataset={learning.DATASET.value} has no masks: "
            f"pass --dataset={COMPOSITES}"
        )
    names = class_names(records)
    wanted = {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": len(names) if segments else channels,
        "upsample": UPSAMPLE.value,
        "time_embedding": "none",
    }
    model = learning.build_for(MODEL.value, diffjax.models, wanted)
    if segments:
        return Segmentation(model=model, image_shape=records.image_shape, class_names=names)
    return Restoration(model=model, image_shape=records.image_shape)


def say_by_class(run: Run[Any]) -> None:
    """Says the overlap of each class in the end, where there are classes."""
    found = json.loads((run.folder.path / "held_out.json").read_text())
    for name, value in found.get("iou", {}).items():
        learning.say(f"  {name:<14} IoU {value:.3f}  Dice {found['dice'][name]:.3f}")


if __name__ == "__main__":
    command.run(main)

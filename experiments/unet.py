"""Trains a U-Net to see through noise, or to tell what each pixel is a part of.

python -m experiments.unet --flagfile=experiments/flagfiles/unet_denoise.flags
python -m experiments.unet --flagfile=experiments/flagfiles/unet_segment.flags --upsample=bilinear
"""

import json
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float, Int, UInt8
from matplotlib import colormaps

import diffjax.models
from diffjax import spec
from diffjax.batches import in_batches
from diffjax.data import Records
from diffjax.data.images import to_uint8
from diffjax.data.skipping import read_all
from diffjax.display.images import grid
from diffjax.errors import UserError
from diffjax.files import write_text, write_whole
from diffjax.metrics.checkerboard import checkerboard_energy
from diffjax.metrics.psnr import psnr
from diffjax.metrics.segmentation import confusion, dice, iou, threshold_iou
from diffjax.models.upsampling import Way
from diffjax.objectives.reconstruction import reconstruction_loss, veil
from diffjax.objectives.segmentation import segmentation_loss
from diffjax.randomness import sample_keys
from diffjax.training.run import RunConfig, RunFolder
from diffjax.typing import Apply, Params
from experiments import training
from experiments.flags import presets, specs
from experiments.start import command

flags.adopt_module_key_flags(training)
COMPOSITES = "composites(of='embedded')"
# What a run is, besides training.IDENTITY.
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
EVAL_EVERY = flags.DEFINE_integer("eval_every", 500, "steps to held-out figures and a picture", 1)
OWN = (TASK, MODEL, UPSAMPLE, EVAL_EVERY)
presets.define_preset(
    smoke={
        "batch_size": 16, "steps": 60, "log_every": 20, "checkpoint_every": 60, "eval_every": 30
    }
)  # fmt: skip

EXAM_BATCH, MOST = 250, 1000  # held-out images at a time, and in all
SHOWN = 10
Exam = Callable[[Params], tuple[dict[str, Any], list[UInt8[np.ndarray, "N H W C"]]]]


def main() -> None:
    with training.processes():
        if TASK.value != "denoise":
            flags.FLAGS.set_default(training.DATASET.name, COMPOSITES)
        records = training.open_records()
        config = describe(records)
        model = spec.build(config.model, diffjax.models)
        batch = read_held_out(training.open_held_out(config))
        if TASK.value == "denoise":
            used: tuple[str, ...] = ("image",)
            loss_fn = reconstruction_loss(model.apply)
            exam = denoising_exam(model.apply, batch["image"])
        else:
            used, names = ("image", "mask"), class_names(records)
            loss_fn = segmentation_loss(model.apply, len(names))
            exam = segmentation_exam(model.apply, batch["image"], batch["mask"], names)
        with training.run_folder(config, training.flags_text("unet", OWN)) as run:
            task = training.Task(
                lambda key: model.init(key, jnp.zeros((1, *records.image_shape)))["params"],
                loss_fn,
                used,
                make_show(run, exam),
                EVAL_EVERY.value,
            )
            step = int(training.train_run(run, records, task).step)
        if step < training.STEPS.value:
            training.say(f"stopped at step {step}: the same command goes on from there")
        else:
            training.say(f"done: step {step}, see {run.report}")


def class_names(records: Records) -> tuple[str, ...]:
    """What a pixel may be part of; the first is no thing."""
    if TASK.value == "segment":
        return "background", "thing"
    classes = records.num_classes or 0
    return "background", *(records.class_names or map(str, range(classes)))


def describe(records: Records) -> RunConfig:
    """This run's config: the flags, and what follows from data and task."""
    height, width, channels = records.image_shape
    segments = TASK.value != "denoise"
    if segments and "mask" not in records[0]:
        raise UserError(
            f"--task={TASK.value}: --dataset={training.DATASET.value} has no masks: "
            f"pass --dataset={COMPOSITES}"
        )
    wanted = {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": len(class_names(records)) if segments else channels,
        "upsample": UPSAMPLE.value,
        "time_embedding": "none",
    }
    model = training.build_for(MODEL.value, diffjax.models, wanted)
    return RunConfig(
        experiment="unet",
        model=spec.render(model),
        image_shape=records.image_shape,
        num_classes=None,
        training={**training.identity(), TASK.name: TASK.value},
    )


def read_held_out(records: Records) -> dict[str, np.ndarray]:
    """Up to MOST of the held-out records, evenly spaced."""
    count = min(MOST, len(records))
    found = read_all(records, [i * len(records) // count for i in range(count)])
    return {
        key: np.stack([one[key] for one in found]) for key in ("image", "mask") if key in found[0]
    }


def denoising_exam(apply: Apply, images: Float[np.ndarray, "N H W C"]) -> Exam:
    """PSNR and checkerboard of what comes out, beside those of what went in and of the truth."""
    keys = sample_keys(jax.random.key(training.SEED.value), 0, len(images))
    veiled = np.asarray(veil(keys, jnp.asarray(images)))
    predict = jax.jit(lambda params, x: apply({"params": params}, x))

    def exam(params: Params) -> tuple[dict[str, Any], list[UInt8[np.ndarray, "N H W C"]]]:
        found = in_batches(lambda batch: predict(params, batch), veiled, EXAM_BATCH)
        figures = {
            "psnr": psnr(found, images),
            "psnr_of_input": psnr(veiled, images),
            "checkerboard": float(checkerboard_energy(found).mean()),
            "checkerboard_of_truth": float(checkerboard_energy(images).mean()),
        }
        return figures, [to_uint8(x[shown(len(images))]) for x in (veiled, images, found)]

    return exam


def segmentation_exam(
    apply: Apply,
    images: Float[np.ndarray, "N H W C"],
    masks: Int[np.ndarray, "N H W"],
    names: tuple[str, ...],
) -> Exam:
    """IoU and Dice of each class and their means; of two classes, the best threshold's beside."""
    truth = np.minimum(masks, len(names) - 1)
    predict = jax.jit(lambda params, x: apply({"params": params}, x).argmax(-1))
    simple = {}
    if len(names) == 2:
        simple["threshold_iou"] = threshold_iou(images.mean(-1), truth > 0)

    def exam(params: Params) -> tuple[dict[str, Any], list[UInt8[np.ndarray, "N H W C"]]]:
        found = in_batches(lambda batch: predict(params, batch), images, EXAM_BATCH)
        counts = confusion(truth, found, len(names))
        figures: dict[str, Any] = dict(simple)
        for name, values in (("iou", iou(counts)), ("dice", dice(counts))):
            figures[f"mean_{name}"] = float(np.nanmean(values))
            figures[name] = {n: float(v) for n, v in zip(names, values, strict=True) if v == v}
        rows = shown(len(images))
        inputs = np.broadcast_to(to_uint8(images[rows]), (*truth[rows].shape, 3))
        return figures, [inputs, *(coloured(x[rows], len(names)) for x in (truth, found))]

    return exam


def shown(count: int) -> Int[np.ndarray, "n"]:
    """Which of so many images are shown, from the middle of each tenth."""
    number = min(SHOWN, count)
    return (2 * np.arange(number) + 1) * count // (2 * number)


def coloured(classes: Int[np.ndarray, "N H W"], count: int) -> UInt8[np.ndarray, "N H W 3"]:
    """The background black, a class white if it is the only one, else a colour of its own."""
    colours = (
        np.ones((1, 3)) if count == 2 else colormaps["tab10"](np.arange(count - 1) % 10)[:, :3]
    )
    return np.round(255 * np.concatenate([np.zeros((1, 3)), colours])).astype(np.uint8)[classes]


def make_show(run: RunFolder, exam: Exam) -> Callable[[int, Params], None]:
    """A function that examines weights, says the figures, and writes them and a picture."""

    def show(step: int, params: Params) -> None:
        figures, rows = exam(params)
        sheet = grid(np.concatenate(rows), len(rows[0]))
        path = run.samples / f"step_{step:08d}.png"
        write_whole(path, lambda part: sheet.save(part, format="PNG"))
        text = json.dumps({"step": step, **figures}, indent=2) + "\n"
        write_text(run.path / "held_out.json", text)
        numbers = {n: v for n, v in figures.items() if not isinstance(v, dict)}
        training.say(f"step {step}: " + ", ".join(f"{n} {v:.4g}" for n, v in numbers.items()))
        if step == training.STEPS.value and "iou" in figures:
            for name, value in figures["iou"].items():
                training.say(f"  {name:<14} IoU {value:.3f}  Dice {figures['dice'][name]:.3f}")

    return show


if __name__ == "__main__":
    command.run(main)

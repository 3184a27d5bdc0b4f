"""What each pixel of an image is a part of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8
from matplotlib import colormaps

from diffjax.batches import in_batches
from diffjax.data.images import to_uint8
from diffjax.metrics.segmentation import confusion, dice, iou, threshold_iou
from diffjax.objectives.segmentation import segmentation_loss
from diffjax.tasks.base import Component, Preview, plain
from diffjax.tasks.examined import (
    BATCH,
    UNET,
    ExaminedTask,
    Figures,
    Rows,
    of_tenths,
    read_held_out,
    shown_by,
)
from diffjax.training.run import RunFolder
from diffjax.training.step import Loss
from diffjax.typing import Apply, Params

__all__ = ["Segmentation"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmentation(ExaminedTask):
    """Images to a class per pixel; the first of class_names is the background."""

    class_names: tuple[str, ...]

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return "image", "mask"

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        return plain(segmentation_loss(self.model.apply, len(self.class_names)), UNET)

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """IoU and Dice of each class and their means; of two classes, the best threshold's IoU."""
        names = self.class_names
        held_out = read_held_out(shown.records)
        images, truth = held_out["image"], np.minimum(held_out["mask"], len(names) - 1)
        apply: Apply = self.model.apply
        predict = jax.jit(lambda params, x: apply({"params": params}, x).argmax(-1))
        simple = {}
        if len(names) == 2:
            simple["threshold_iou"] = threshold_iou(images.mean(-1), truth > 0)

        def exam(params: Params) -> tuple[Figures, Rows]:
            found = in_batches(lambda batch: predict(params, batch), images, BATCH)
            counts = confusion(truth, found, len(names))
            figures: Figures = dict(simple)
            for name, values in (("iou", iou(counts)), ("dice", dice(counts))):
                figures[f"mean_{name}"] = float(np.nanmean(values))
                figures[name] = {n: float(v) for n, v in zip(names, values, strict=True) if v == v}
            rows = of_tenths(len(images))
            inputs = np.broadcast_to(to_uint8(images[rows]), (*truth[rows].shape, 3))
            return figures, [inputs, *(coloured(x[rows], len(names)) for x in (truth, found))]

        return shown_by(folder, exam, shown.say)


def coloured(classes: Int[np.ndarray, "N H W"], count: int) -> UInt8[np.ndarray, "N H W 3"]:
    """The background black, a class white if it is the only one, else a colour of its own."""
    colours = (
        np.ones((1, 3)) if count == 2 else colormaps["tab10"](np.arange(count - 1) % 10)[:, :3]
    )
    return np.round(255 * np.concatenate([np.zeros((1, 3)), colours])).astype(np.uint8)[classes]

"""Images made out under noise, with no time and no schedule."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.batches import in_batches
from diffjax.data.images import to_uint8
from diffjax.metrics.checkerboard import checkerboard_energy
from diffjax.metrics.psnr import psnr
from diffjax.objectives.reconstruction import reconstruction_loss, veil
from diffjax.randomness import sample_keys
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

__all__ = ["Restoration"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restoration(ExaminedTask):
    """The first notebook of the course: half the image and half noise, back to the image."""

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return ("image",)

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        return plain(reconstruction_loss(self.model.apply), UNET)

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """PSNR and checkerboard energy beside those of the input and of the truth."""
        images = read_held_out(shown.records)["image"]
        keys = sample_keys(jax.random.key(shown.seed), 0, len(images))
        veiled = np.asarray(veil(keys, jnp.asarray(images)))
        apply: Apply = self.model.apply
        predict = jax.jit(lambda params, x: apply({"params": params}, x))

        def exam(params: Params) -> tuple[Figures, Rows]:
            found = in_batches(lambda batch: predict(params, batch), veiled, BATCH)
            figures = {
                "psnr": psnr(found, images),
                "psnr_of_input": psnr(veiled, images),
                "checkerboard": float(checkerboard_energy(found).mean()),
                "checkerboard_of_truth": float(checkerboard_energy(images).mean()),
            }
            return figures, [to_uint8(x[of_tenths(len(images))]) for x in (veiled, images, found)]

        return shown_by(folder, exam, shown.say)

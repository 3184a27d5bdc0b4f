"""A classifier, whose classes and features judge drawn images."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key

import diffjax.data
import diffjax.models
from diffjax import spec
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.metrics.judge import make_judge
from diffjax.models.classifier import Classifier
from diffjax.objectives.classification import classification_loss
from diffjax.tasks.base import Component, Preview, Task, plain
from diffjax.training.run import RunFolder
from diffjax.training.step import Loss
from diffjax.typing import Params

__all__ = ["Classification"]

CLASSIFIER, BATCH = "classifier", 256


@dataclasses.dataclass(frozen=True)
class Exam:
    """The held-out images that a classifier is measured on, and what takes each result."""

    records: Records
    say: Callable[[str], object] = print


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Images to classes, learnt from images that are flipped and shifted a little each time.

    Raises UserError for a network that is no classifier.
    """

    model: Any  # a Classifier, which is checked
    image_shape: tuple[int, int, int]
    flip: bool = True
    shift: int = 1

    specs: ClassVar[dict[str, Any]] = {"model": diffjax.models}

    def __post_init__(self) -> None:
        if not isinstance(self.model, Classifier):
            raise UserError(
                f"{spec.render(self.model)} is no classifier: it has no num_classes",
                option="model",
            )

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.model.num_classes)

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return "image", "label"

    def networks(self) -> dict[str, nn.Module]:
        return {CLASSIFIER: self.model}

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        return {CLASSIFIER: self.model.init(key, jnp.zeros((1, *self.image_shape)))["params"]}

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        own = classification_loss(self.model.apply, flip=self.flip, shift=self.shift)
        return plain(own, CLASSIFIER)

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """Measures weights on held-out images into accuracy.json; `shown` is an Exam."""
        judge = make_judge(self.model.apply, BATCH)

        def exam(step: int, params: Params) -> None:
            right = sum(
                int((judge(params[CLASSIFIER], b["image"]).logits.argmax(1) == b["label"]).sum())
                for b in diffjax.data.epoch(shown.records, BATCH)
            )
            images, accuracy = len(shown.records), right / len(shown.records)
            shown.say(f"step {step}: {accuracy:.2%} of {images} held-out images right")
            values = {"step": step, "accuracy": accuracy, "images": images}
            write_text(folder.path / "accuracy.json", json.dumps(values) + "\n")

        return exam

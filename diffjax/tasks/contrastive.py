"""A CLIP: which image and which text belong together."""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, cast

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key

import diffjax.interop
import diffjax.models
from diffjax.errors import UserError
from diffjax.models.clip import CLIP
from diffjax.objectives.augmentation import Augmentation
from diffjax.objectives.contrastive import Contrast, contrastive_loss
from diffjax.randomness import fold_in
from diffjax.tasks.base import Component, Preview, Task
from diffjax.tasks.matching import matching_preview
from diffjax.tasks.towers import CLIP_TOWERS, Towers
from diffjax.text.tokenizer import Tokenizer
from diffjax.training.run import RunFolder
from diffjax.training.step import Loss
from diffjax.typing import Params

__all__ = ["Contrastive"]

HIGHEST_SCALE = math.log(100)  # of the logits, as CLIP keeps it (Radford et al. 2021, sec. 2.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Task):
    """Images and texts to embeddings whose cosines say which belong together.

    vision and text are towers of `models`; embeddings have `dim` numbers. contrast: CLIP's softmax
    over the whole batch, or SigLIP's sigmoid of each pair. weight_decay is of matrices alone. The
    other options are the `Augmentation`'s. Raises UserError for towers that do not fit together.
    """

    vision: Any  # towers, which are checked
    text: Any
    image_shape: tuple[int, int, int]
    dim: int = 128
    contrast: Contrast = "softmax"
    weight_decay: float = 0.2
    flip: bool = False
    shift: float = 0.0
    zoom: float = 0.0
    colour: float = 0.0
    words: float = 0.0

    specs: ClassVar[dict[str, Any]] = {"vision": diffjax.models, "text": diffjax.models}

    def __post_init__(self) -> None:
        for name in ("vision", "text"):
            tower = getattr(self, name)
            if type(tower).__module__.rpartition(".")[2] not in TOWERS[name]:
                raise UserError(f"{name} must be one of {', '.join(TOWERS[name])}", option=name)
        tokens = self.tokenizer.end + 1
        if self.text.vocab_size < tokens:
            raise UserError(
                f"text(vocab_size={self.text.vocab_size}): the tokenizer has {tokens} tokens: "
                "leave it out",
                option="text",
            )
        self.model  # noqa: B018 - refuses what does not go together
        self.augmentation  # noqa: B018

    @cached_property
    def model(self) -> CLIP:
        """Both towers."""
        return CLIP(self.vision, self.text, self.dim, bias=self.contrast == "sigmoid")

    @cached_property
    def augmentation(self) -> Augmentation:
        """How images and texts are changed in training."""
        return Augmentation(self.flip, self.shift, self.zoom, self.colour, self.words)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """CLIP's, its rows as long as the text tower takes."""
        return dataclasses.replace(
            diffjax.interop.load_tokenizer(), length=self.text.max_position_embeddings
        )

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return "image", "ids", "caption"

    def networks(self) -> dict[str, nn.Module]:
        return {CLIP_TOWERS: self.model}

    def towers(self, params: Mapping[str, Params]) -> Towers:
        """The trained component as what embeds images and texts."""
        return Towers(model=self.model, params=params[CLIP_TOWERS], tokenizer=self.tokenizer)

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        ids = jnp.zeros((1, self.tokenizer.length), jnp.int32)
        return {CLIP_TOWERS: self.model.init(key, jnp.zeros((1, *self.image_shape)), ids)["params"]}

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        def in_pieces(pieces: int) -> Any:
            own = contrastive_loss(self._encode, self.contrast, pieces)
            return lambda params, frozen, keys, batch, gather: own(
                params[CLIP_TOWERS], keys, batch, gather
            )

        return Loss(in_pieces(1), whole_batch=True, in_pieces=in_pieces)

    def _encode(self, params: Params, keys: Any, batch: Mapping[str, Array]) -> Any:
        tokenizer, change = self.tokenizer, self.augmentation
        images = change.images(fold_in(keys, 0), batch["image"])
        ids = change.texts(fold_in(keys, 1), batch["ids"], tokenizer.end, tokenizer.pad)
        variables = {"params": params}
        return tuple(
            cast(Array, self.model.apply(variables, given, method=method))
            for given, method in ((images, "encode_image"), (ids, "encode_text"))
        )

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """Measures weights on held-out pairs, into curves and pictures; `shown` is an Exam."""
        return matching_preview(folder, self.towers, shown)


TOWERS = {"vision": ("clip_vision", "siglip_vision"), "text": ("clip_text", "siglip_text")}

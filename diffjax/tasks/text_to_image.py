"""Images from texts: a denoiser that is told a CLIP's embeddings."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict, cast, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.conditions.base import in_turn, rows_of
from diffjax.conditions.tokens import Sequences, Tokens
from diffjax.conditions.vector import Vector
from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.randomness import fold_in, normal
from diffjax.tasks.base import Component, Preview, Source
from diffjax.tasks.denoisers import Labels
from diffjax.tasks.diffusion import Diffusion
from diffjax.tasks.towers import CLIP_TOWERS, Towers
from diffjax.training.run import RunFolder
from diffjax.typing import Cond, Keys, Params

__all__ = ["TextToImage"]

Modality = Literal["image", "text"]
Told = Literal["image", "text", "tokens", "padded_tokens"]
TOKENS: tuple[Told, ...] = ("tokens", "padded_tokens")
MODALITIES: tuple[Modality, ...] = get_args(Modality)
CAPTIONS = "captions.txt"
NOISE = 7  # folded into a sample's key: the draw of its embedding's noise
DIGITS = 4  # of the means that a run keeps: another machine's rounding makes no other run


class Figures(TypedDict, total=False):
    """What a run keeps of its training set's embeddings, as `TextToImage` has it."""

    image_mean: tuple[float, ...]
    text_mean: tuple[float, ...]
    spread: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToImage(Diffusion):
    """Noised images back to images, under what a CLIP computes of them or of their texts.

    told: in training, the embedding of the image (which stands for the text's, as in DALL-E 2's
    ablation) or of the text, or the states of the text's `tokens`, with those of the padding after
    them in `padded_tokens`, as Stable Diffusion is told. Sampling is always from texts.

    normalise: embeddings have length sqrt(dim), so that their numbers have mean square 1. shift:
    the mean over the training set is subtracted, image_mean of images and text_mean of texts, which
    closes the gap between them (Liang et al. 2022). noise: in training, Gaussian noise on each
    embedding, in units of `spread`, each number's standard deviation over the training set; 0 is
    none. `fitted` computes the three. States of tokens are taken as they are.

    Raises UserError for parts that do not go together.
    """

    clip: Source
    told: Told = "image"
    normalise: bool = True
    shift: bool = True
    noise: float = 0.0
    image_mean: tuple[float, ...] = ()
    text_mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    asks_captions: ClassVar[bool] = True
    drawing_only: ClassVar[tuple[str, ...]] = (*Diffusion.drawing_only, CLIP_TOWERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = Tokens if self.told in TOKENS else Vector
        if not isinstance(self.condition, wanted):
            choice = "unet_condition" if wanted is Tokens else "unet or course_unet"
            raise UserError(
                f"told={self.told} needs a network that is told so: choose a {choice}", "model"
            )
        padded = isinstance(self.condition, Tokens) and self.condition.padded
        if padded != (self.told == "padded_tokens"):
            raise UserError(f"told={self.told} and a condition with padded={padded}", "told")
        if not 0 <= self.noise < math.inf or (self.noise and self.told in TOKENS):
            raise UserError(
                f"noise={self.noise} with told={self.told}: noise is 0 or above, and on embeddings "
                "alone",
                option="noise",
            )
        self._check_figures()

    def _check_figures(self) -> None:
        """Refuses means that are missing, not asked for, or of another size."""
        dim = self.condition.dim if isinstance(self.condition, Vector) else 0
        needed = figures_of(self.told, self.shift, self.noise)
        for name in ("image_mean", "text_mean", "spread"):
            found, size = len(getattr(self, name)), dim if name in needed else 0
            if found != size:
                raise UserError(f"{name} has {found} numbers, where {size} are needed")

    def prepared(self, embeddings: Any, modality: Modality) -> Float[Array, "N D"]:
        """A tower's embeddings as the network takes them, without noise; fit for jit."""
        mean = self.image_mean if modality == "image" else self.text_mean
        x = scaled(embeddings) if self.normalise else jnp.asarray(embeddings)
        return x - jnp.asarray(mean, jnp.float32) if self.shift else x

    def encoded(
        self, components: Mapping[str, Component], params: Mapping[str, Params], keys: Keys,
        batch: Mapping[str, Array],
    ) -> Mapping[str, Array]:  # fmt: skip
        """The batch with x0 for images, and its embeddings as the network takes them."""
        batch = super().encoded(components, params, keys, batch)
        if self.told in TOKENS:
            return batch
        vector = self.prepared(batch["vector"], cast(Modality, self.told))
        if self.noise:
            spread = jnp.asarray(self.spread, jnp.float32)
            vector += self.noise * spread * normal(fold_in(keys, NOISE), spread.shape)
        return {**batch, "vector": vector}

    def cond_of(self, components: Mapping[str, Component], values: Labels | None, num: int) -> Cond:
        """The condition of `num` samples from texts, in turn, or from what the network takes.

        Raises UserError for an empty text, and without values.
        """
        if values is None:
            raise UserError("this run draws from texts: give labels, a list of texts", "labels")
        if isinstance(values, np.ndarray) and values.dtype.kind not in "OSU":
            return self.condition.asked(values, num)
        texts = checked(values)
        towers = components[CLIP_TOWERS]
        assert isinstance(towers, Towers)
        return rows_of(self.of_texts(towers, texts), in_turn(np.arange(len(texts)), num))

    def of_texts(self, towers: Towers, texts: Sequence[str]) -> Cond:
        """What the network is told of texts."""
        if self.told in TOKENS:
            padded, empty = self.told == "padded_tokens", None
            states, mask = towers.states(texts, padded=padded)
            if padded:
                of_none, _ = towers.states([""], padded=True)
                empty = jnp.asarray(np.repeat(of_none, len(texts), axis=0))
            return Sequences(jnp.asarray(states), jnp.asarray(mask), empty)
        return self.prepared(towers.texts(texts), "text")

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """Draws the labels of `shown`, texts, and lists them in captions.txt."""
        picture = super().preview(folder, frozen, shown)
        texts = in_turn(checked(shown.labels), shown.num).tolist()
        lines = "".join(f"{number}\t{' '.join(t.split())}\n" for number, t in enumerate(texts, 1))

        def show(step: int, params: Params) -> None:
            write_text(folder.samples / CAPTIONS, lines)
            picture(step, params)

        return show


def checked(values: Labels, option: str = "labels") -> list[str]:
    """Texts that can be drawn from. Raises UserError, for the option, for what are none."""
    if isinstance(values, str | bytes) or not len(values):
        raise UserError(f"{option}={values!r}: give a list of one or more texts", option)
    texts = list(values)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{text!r} is no text to draw from: write what is to be seen", option)
    return texts


def figures_of(told: Told, shift: bool, noise: float) -> tuple[str, ...]:
    """Which figures of the training set a run keeps."""
    if told in TOKENS:
        return ()
    means = ("image_mean", "text_mean") if told == "image" else ("text_mean",)
    return (means if shift else ()) + (("spread",) if noise else ())


def fitted(
    embeddings: Mapping[Modality, Float[np.ndarray, "N D"]], told: Told, *,
    normalise: bool, shift: bool, noise: float,
) -> Figures:  # fmt: skip
    """The figures of a training set's embeddings that a run of these options keeps."""
    needed, found = figures_of(told, shift, noise), Figures()
    x = {name: np.asarray(scaled(rows) if normalise else rows) for name, rows in embeddings.items()}
    if "image_mean" in needed:
        found["image_mean"] = _rounded(np.mean(x["image"], 0, np.float64))
    if "text_mean" in needed:
        found["text_mean"] = _rounded(np.mean(x["text"], 0, np.float64))
    if "spread" in needed and (told == "image" or told == "text"):
        found["spread"] = _rounded(np.std(x[told], 0, np.float64))
    return found


def scaled(embeddings: Any) -> Float[Array, "N D"]:
    """Embeddings of length sqrt(D); one of zeros stays."""
    x = jnp.asarray(embeddings)
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x * (math.sqrt(x.shape[-1]) / jnp.where(length == 0, 1, length))


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)

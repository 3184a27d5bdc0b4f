"""The two towers of a CLIP as one component: with them, what they read is prepared."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

import diffjax.interop
from diffjax.batches import in_batches
from diffjax.conditions.base import in_turn
from diffjax.data.clip_images import ImageProcessor
from diffjax.errors import UserError
from diffjax.guidance.base import are_scales
from diffjax.guidance.plan import Judged
from diffjax.guidance.similarity import Similarity
from diffjax.models.clip import CLIP
from diffjax.tasks.base import Component
from diffjax.text.tokenizer import Tokenizer
from diffjax.typing import Images, Params

CLIP_TOWERS = "clip"  # the component's name in a run
BATCH = 256
HALVES = ImageProcessor(32, (32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # of images in [-1, 1]


@dataclasses.dataclass(frozen=True)
class ImageEncoder:
    """(the parameters of a CLIP, images in [-1, 1]) -> embeddings, not normalised.

    Two encoders of one model, mean and std are equal.
    """

    model: CLIP
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, params: Params, images: Images) -> Float[Array, "B D"]:
        variables, ready = {"params": params}, self.prepared(images)
        return cast(Array, self.model.apply(variables, ready, method="encode_image"))

    def prepared(self, images: Images) -> Float[Array, "B s s c"]:
        """As `Towers.prepared`."""
        tower = self.model.vision_model
        if tower is None:
            raise UserError("this model has no image tower: load one that has")
        return prepare(images, tower.image_size, tower.num_channels, self.mean, self.std)


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """(the parameters of a CLIP, token ids) -> embeddings, not normalised."""

    model: CLIP

    def __call__(self, params: Params, ids: Any) -> Float[Array, "B D"]:
        return cast(Array, self.model.apply({"params": params}, ids, method="encode_text"))


@dataclasses.dataclass(frozen=True)
class TextStates:
    """(the parameters of a CLIP, token ids) -> float32 states after the text tower's last norm."""

    model: CLIP

    def __call__(self, params: Params, ids: Any) -> Float[Array, "B L W"]:
        found = cast(Any, self.model.apply({"params": params}, ids, method="text_states"))
        return found.last_hidden_state.astype(jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Towers(Component):
    """Images and texts to embeddings of one space.

    mean and std are of the channels of images in [0, 1], as the image tower was trained. name is
    what a person calls the model.
    """

    model: CLIP
    tokenizer: Tokenizer
    mean: tuple[float, ...] = HALVES.mean
    std: tuple[float, ...] = HALVES.std
    name: str = "clip"

    @property
    def logit_scale(self) -> float:
        """The inverse temperature; 1 for a model of one tower."""
        return float(np.exp(self.params.get("logit_scale", 0.0)))

    @property
    def dim(self) -> int:
        """How many numbers an embedding has."""
        return self._size(TextEncoder(self.model))

    def prepared(self, images: Images) -> Float[Array, "B s s c"]:
        """Images in [-1, 1] of any size, as the image tower reads them; fit for jit and grad.

        The middle square is resized, with antialiasing, and grey repeated where colour is needed.
        """
        return self.image_encoder.prepared(images)

    @property
    def image_encoder(self) -> ImageEncoder:
        """What embeds images; fit for jit and grad."""
        return ImageEncoder(self.model, self.mean, self.std)

    def images(self, images: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
        """The embeddings of images in [-1, 1], not normalised, in batches; N >= 1."""
        encode = _compiled(self.image_encoder)
        return in_batches(lambda rows: encode(self.params, rows), images, min(BATCH, len(images)))

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
        """The embeddings of texts, not normalised, in batches; N >= 1."""
        encode, ids = _compiled(TextEncoder(self.model)), self.tokenizer(texts)
        return in_batches(lambda rows: encode(self.params, rows), ids, min(BATCH, len(ids)))

    def states(
        self, texts: Sequence[str], *, padded: bool = False
    ) -> tuple[Float32[np.ndarray, "N L W"], Bool[np.ndarray, "N L"]]:
        """The text tower's last states, in batches, and where a text is: up to its end token.

        States beyond the end token are zeros, or with `padded` there, and the mask has them too.
        N >= 1.
        """
        states, ids = _compiled(TextStates(self.model)), self.tokenizer(texts)
        made = in_batches(lambda rows: states(self.params, rows), ids, min(BATCH, len(ids)))
        if padded:
            return made, np.ones(ids.shape, bool)
        last = (ids == self.tokenizer.end).argmax(1)
        mask = np.arange(ids.shape[1]) <= last[:, None]
        return np.where(mask[..., None], made, np.float32(0)), mask

    @property
    def width(self) -> int:
        """How many numbers the state of a token has."""
        return self._size(TextStates(self.model))

    def _size(self, encoder: "TextEncoder | TextStates") -> int:
        ids = jax.ShapeDtypeStruct((1, self.tokenizer.length), jnp.int32)
        return int(jax.eval_shape(encoder, self.params, ids).shape[-1])

    def towards(self, texts: Sequence[str], scale: float | Sequence[float], num: int) -> Judged:
        """Guidance of `num` images to `texts`, which repeat in turn, for `Guidance(judged=...)`.

        The gradient is that of scale * cosine(image, text); scale: one, or one per image; 0 is off.
        Raises UserError for no text, for another number of scales, and for a CLIP of one tower.
        """
        if isinstance(texts, str) or not len(texts):
            raise UserError(f"a list of texts is needed, not {texts!r}")
        if np.shape(scale) not in ((), (num,)) or not are_scales(scale):
            raise UserError(f"scale={scale}: give one finite scale, or {num} of them")
        if self.model.vision_model is None:
            raise UserError("this model has no image tower: load one that has")
        embedded = self.texts(texts)
        targets = embedded / np.linalg.norm(embedded, axis=-1, keepdims=True)
        seeing = {name: tree for name, tree in self.params.items() if not name.startswith("text_")}
        return Judged(
            Similarity(self.image_encoder),
            jax.tree.map(jnp.asarray, seeing),
            jnp.full(num, np.asarray(scale, np.float32)),
            jnp.asarray(in_turn(targets, num)),
        )


def prepare(
    images: Images, size: int, channels: int, mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "B s s c"]:
    """Images in [-1, 1] as an image tower reads them, see `Towers.prepared`."""
    height, width, found = images.shape[1:]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    images = images[:, top : top + edge, left : left + edge]
    if edge != size:
        shape = (len(images), size, size, found)
        images = jnp.clip(jax.image.resize(images, shape, "cubic", antialias=True), -1, 1)
    if found < channels:
        images = jnp.repeat(images, channels, axis=-1)
    elif found > channels:
        images = images.mean(-1, keepdims=True)
    return ((images + 1) / 2 - jnp.asarray(mean[:channels])) / jnp.asarray(std[:channels])


def towers_of_files(path: str | os.PathLike[str]) -> Towers:
    """The towers of a folder or file that `load_clip` reads, with its tokenizer and image scale.

    Without tokenizer files the tokenizer is the shipped one. Raises UserError as `load_clip` does.
    """
    model, params = diffjax.interop.load_clip(path)
    folder = Path(path).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    own = (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()
    tokenizer = diffjax.interop.load_tokenizer(folder if own else None)
    if model.text_model is not None:
        length = min(tokenizer.length, model.text_model.max_position_embeddings)
        tokenizer = dataclasses.replace(tokenizer, length=length)
    has_scale = (folder / "preprocessor_config.json").is_file()
    processor = diffjax.interop.load_image_processor(folder if has_scale else None)
    return Towers(
        model=model, params=params, tokenizer=tokenizer, mean=processor.mean, std=processor.std,
        name=Path(path).expanduser().resolve().name,
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _compiled(encoder: ImageEncoder | TextEncoder | TextStates) -> Callable[[Params, Any], Array]:
    """The encoder, compiled; equal ones share what is compiled."""
    return jax.jit(encoder)

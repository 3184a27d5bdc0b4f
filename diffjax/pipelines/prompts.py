"""Prompts as what a U-Net of Stable Diffusion is told."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from diffjax.batches import in_batches
from diffjax.errors import UserError
from diffjax.interop import load_clip, load_tokenizer
from diffjax.models.clip import CLIP
from diffjax.models.clip_layers import TextTransformer
from diffjax.pipelines.placement import Placement
from diffjax.text.tokenizer import Tokenizer
from diffjax.typing import Cond, Params

SHOWN = 60  # characters of what is cut off that a warning shows


class Encoded(NamedTuple):
    """What is known of texts: states of their tokens, and of the whole text where it is pooled."""

    tokens: Float32[np.ndarray, "N L W"]
    pooled: Float32[np.ndarray, "N P"] | None


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A text encoder with its tokenizer.

    skipped: the states of the layer before the last, as SDXL takes them, in place of the last
    layer's after its norm.
    """

    tokenizer: Tokenizer
    model: CLIP
    params: Params
    skipped: bool

    @property
    def width(self) -> int:
        """How many numbers the state of a token has."""
        return _tower(self.model).hidden_size

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """What is known of each text; one text at a time, whatever their number."""
        ids, of = np.unique(self.tokenizer(texts), axis=0, return_inverse=True)
        encode = _compiled(self.model, self.skipped)
        tokens, pooled = in_batches(lambda rows: encode(self.params, rows), ids, 1)
        of = of.ravel()  # which NumPy 2.0 alone gives two axes
        return Encoded(tokens[of], None if pooled is None else pooled[of])


@functools.lru_cache(maxsize=16)
def _compiled(model: CLIP, skipped: bool) -> Callable[[Params, Any], tuple[Array, Array | None]]:
    @jax.jit
    def encode(params: Params, ids: Any) -> tuple[Array, Array | None]:
        variables = {"params": params}
        states: Any = model.apply(variables, ids, method="text_states")
        tokens = states.hidden_states[-2] if skipped else states.last_hidden_state
        pooled: Any = None
        if skipped and model.projection_dim is not None:
            pooled = model.apply(variables, ids, method="encode_text")
        return tokens.astype(jnp.float32), pooled

    return encode


def load_encoder(folder: Path, tokenizer: Path, dtype: str, *, skipped: bool) -> Encoder:
    """The text encoder of a folder. Raises UserError as `load_clip` and `load_tokenizer` do."""
    model, params = load_clip(folder, dtype=dtype)
    params = jax.tree.map(lambda leaf: Placement(dtype).put(np.asarray(leaf)), params)
    read = load_tokenizer(tokenizer)
    length = min(read.length, _tower(model).max_position_embeddings)
    return Encoder(dataclasses.replace(read, length=length), model, params, skipped)


def _tower(model: CLIP) -> TextTransformer:
    if not isinstance(model.text_model, TextTransformer):
        raise UserError("a text encoder is needed, and this model has no text tower")
    return model.text_model


@dataclasses.dataclass(frozen=True)
class Prompts:
    """All of a pipeline's text encoders.

    zeros: a missing negative prompt is zeros, and not an empty text.
    """

    encoders: tuple[Encoder, ...]
    zeros: bool

    @property
    def width(self) -> int:
        """How many numbers the states of a token have."""
        return sum(encoder.width for encoder in self.encoders)

    @property
    def pools(self) -> bool:
        """Whether the U-Net is told the pooled text and sizes too."""
        return len(self.encoders) > 1

    def __call__(
        self, texts: Sequence[str], negatives: Sequence[str] | None
    ) -> tuple[Encoded, Encoded]:
        """What is known of the prompts and of what to go away from, the empty text without any.

        Warns of each text that is too long, with what is cut off.
        """
        self._warn([*texts, *(negatives or ())])
        wanted = self._encoded(texts)
        if negatives is None and self.zeros:
            return wanted, jax.tree.map(np.zeros_like, wanted)
        return wanted, self._encoded([""] * len(texts) if negatives is None else negatives)

    def _encoded(self, texts: Sequence[str]) -> Encoded:
        """The states of all encoders side by side; of the last, the pooled text."""
        found = [encoder(texts) for encoder in self.encoders]
        return Encoded(np.concatenate([one.tokens for one in found], -1), found[-1].pooled)

    def _warn(self, texts: Sequence[str]) -> None:
        tokenizer = min((each.tokenizer for each in self.encoders), key=lambda each: each.length)
        for text in dict.fromkeys(texts):
            if cut := tokenizer.cut_off(text):
                more = "" if len(cut) <= SHOWN else f" and {len(cut) - SHOWN:,} more characters"
                warnings.warn(
                    f"a prompt is longer than {tokenizer.length} tokens: cut off "
                    f"{cut[:SHOWN]!r}{more}",
                    stacklevel=4,
                )


def condition(encoded: Encoded, sizes: tuple[int, int] | None) -> Cond:
    """What the U-Net takes; with `sizes`, SDXL's: the images' height and width.

    As the original size, the corner of no crop and the size that is wanted (Podell et al. 2023,
    section 2.2).
    """
    cond: dict[str, Array] = {"tokens": jnp.asarray(encoded.tokens)}
    if sizes is None:
        return cond
    ids = jnp.asarray([*sizes, 0, 0, *sizes], jnp.float32)
    times = jnp.broadcast_to(ids, (len(encoded.tokens), len(ids)))
    return {**cond, "text_embeds": jnp.asarray(encoded.pooled), "time_ids": times}


def checked(texts: Sequence[str], name: str, count: int | None = None) -> list[str]:
    """Texts as a list, one repeated to `count`. Raises UserError for what are none."""
    if isinstance(texts, str | bytes) or not len(texts):
        raise UserError(f"{name}={texts!r}: give a list of one or more texts", name)
    found = list(texts)
    if count is not None and len(found) not in (1, count):
        raise UserError(f"{name} are {len(found)}: give one, or {count}, as many as prompts", name)
    return found * count if count is not None and len(found) == 1 else found

"""CLIP's text tower: a causal transformer (Radford et al. 2021, sec. 2.4)."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Int

from diffjax.models.clip_layers import Ids, States, TextTransformer

__all__ = ["CLIPText"]

HIGHEST = 2  # the `eos_token_id` of files written before eos_token_id was read


class CLIPText(TextTransformer):
    """Token ids to states, as transformers' CLIPTextModel computes them.

    `pooled` is the last state at the first token `eos_token_id`, or at position 0 where there is no
    such token. With `eos_token_id` 2 it is the state at the highest id, as in OpenAI's code. Raises
    UserError for an option that cannot be built.
    """

    eos_token_id: int = 49407

    positive: ClassVar[tuple[str, ...]] = ("vocab_size", "max_position_embeddings")

    @nn.compact
    def __call__(self, ids: Ids) -> States:
        """The states of ids in 0..vocab_size-1, at most max_position_embeddings per text.

        An id that is out of range gives NaN. Raises UserError for too many ids.
        """
        hidden, last = self._states(ids, causal=True)
        place = self._place(ids)[:, None, None]
        return States(hidden, last, jnp.take_along_axis(last, place, axis=1)[:, 0])

    def _place(self, ids: Ids) -> Int[Array, "B"]:
        """Where a text is pooled. argmax returns the first of several."""
        if self.eos_token_id == HIGHEST:
            return ids.argmax(axis=1)
        return (ids == self.eos_token_id).argmax(axis=1)

"""A sequence of tokens, such as an encoded caption."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Num

from diffjax.conditions.base import Condition, in_turn
from diffjax.errors import UserError

__all__ = ["Tokens"]


class Sequences(NamedTuple):
    """Tokens, and where they are: False is padding, which attention must leave out.

    empty: the tokens of a text of no words, where those stand for no condition.
    """

    tokens: Num[Array, "B L *W"]
    mask: Bool[Array, "B L"]
    empty: Num[Array, "B L *W"] | None = None


@dataclasses.dataclass(frozen=True)
class Tokens(Condition):
    """`length` tokens per sample, from a batch's `tokens` and `token_mask`.

    Tokens are int32 ids without a `width`, else float states of that width, such as a text
    encoder's. The null condition is a single zero token: attention over an empty sequence is not a
    number. padded: padding is seen too, and the null condition is the batch's `empty_tokens`, of a
    text of no words (Stable Diffusion, Rombach et al. 2022). Raises UserError for a length or width
    below 1.
    """

    length: int
    width: int | None = None
    padded: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("length", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"tokens({name}={value}): {name} must be above 0")

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return ("tokens", "empty_tokens" if self.padded else "token_mask")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample's tokens."""
        return (self.length,) if self.width is None else (self.length, self.width)

    def example(self, batch_size: int) -> Sequences:
        dtype = jnp.int32 if self.width is None else jnp.float32
        tokens = jnp.zeros((batch_size, *self.shape), dtype)
        return Sequences(tokens, _all(tokens), tokens if self.padded else None)

    def of_batch(self, batch: Mapping[str, Array]) -> Sequences:
        if self.padded:
            return Sequences(batch["tokens"], _all(batch["tokens"]), batch["empty_tokens"])
        return Sequences(batch["tokens"], batch["token_mask"])

    def asked(self, values: Sequence[Any] | np.ndarray | None, num: int) -> Sequences:
        """`values` are one sample's tokens each, all without padding.

        Raises UserError where they are padded: nothing here says what an empty text is.
        """
        if self.padded:
            raise UserError("this run is conditioned on texts with their padding: give texts")
        if values is None:
            raise UserError(f"this run is conditioned on {self.length} tokens per image: give them")
        dtype = np.int32 if self.width is None else np.float32
        tokens = in_turn(values, num).astype(dtype)
        if tokens.shape[1:] != self.shape:
            raise UserError(f"tokens of shape {tokens.shape[1:]}: this run takes {self.shape}")
        return Sequences(jnp.asarray(tokens), _all(tokens))

    def null(self, cond: Sequences) -> Sequences:
        if cond.empty is not None:
            return cond._replace(tokens=cond.empty)
        first = jnp.zeros_like(cond.mask).at[:, 0].set(True)
        return Sequences(jnp.zeros_like(cond.tokens), first)


def _all(tokens: Any) -> Bool[Array, "B L"]:
    """The mask that leaves nothing out."""
    return jnp.ones(tokens.shape[:2], bool)

"""Texts to rows of token ids of one length."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32

from diffjax.errors import UserError
from diffjax.text.bpe import BPE
from diffjax.text.rules import Rule


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """CLIP's tokenizer: the start token, the text's tokens, the end token, then padding.

    `start`, `end` and `pad` are token ids, and `length` is the number of tokens in a row.
    """

    bpe: BPE = dataclasses.field(repr=False)
    split: Rule = dataclasses.field(repr=False)
    start: int
    end: int
    pad: int
    length: int = 77

    def __call__(self, texts: Iterable[str]) -> Int32[np.ndarray, "N L"]:
        """One row per text. A text that is too long is cut, and its row ends in the end token.

        Raises UserError for what is not a list of texts, and for a text with lone surrogates.
        """
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise UserError(f"texts is of type {type(texts).__name__}: give a list of str")
        rows = [self._row(_checked(number, text)) for number, text in enumerate(texts)]
        ids = np.full((len(rows), self.length), self.pad, np.int32)
        for into, row in zip(ids, rows, strict=True):
            into[: len(row)] = row
        return ids

    def cut_off(self, text: str) -> str:
        """What a row leaves out of a text that is too long, as `decode` writes it; else ""."""
        return self.decode(self._ids(_checked(0, text))[self.length - 1 :])

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, "L"]) -> str:
        """The text of a row up to its first end token, in lower case, words apart by a space."""
        row = [int(index) for index in ids]
        row = row[: row.index(self.end)] if self.end in row else row
        return self.bpe.text([index for index in row if index != self.start]).strip()

    def _row(self, text: str) -> list[int]:
        return [*self._ids(text, self.length)[: self.length - 1], self.end]

    def _ids(self, text: str, most: int | None = None) -> list[int]:
        """The start token and the text's own ids; with `most` little more than so many."""
        ids = [self.start]
        for part in self.split(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids.extend(self.bpe(part))
            if most is not None and len(ids) >= most:
                break  # the rest of the text would be cut
        return ids


def _checked(number: int, text: object) -> str:
    if not isinstance(text, str):
        raise UserError(f"text {number} is of type {type(text).__name__}: give a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"text {number} has a lone surrogate, {text[error.start]!r}, at position "
            f"{error.start}: remove it, or decode the text again"
        ) from error
    return text

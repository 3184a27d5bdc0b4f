"""From a text to words and special tokens: the rules of CLIP's two tokenizers.

They differ in what they clean. OpenAI's code mends mojibake and HTML; transformers does neither,
and splits off every special token of a folder, its padding token too.
"""

import html
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import regex

from diffjax.errors import UserError
from diffjax.text.unicode9 import nfc

Rule = Callable[[str], Iterable[int | str]]  # ids of special tokens, and words

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+"
_SPACES = regex.compile(r"\p{White_Space}+")


class Special(NamedTuple):
    """A token that no merge makes. `folded`: it is looked for after normalisation, in any case."""

    content: str
    id: int
    folded: bool = False


def openai(start: Special, end: Special) -> Rule:
    """The rules of OpenAI's CLIP, and of open_clip where a text holds no special tokens.

    github.com/openai/CLIP, clip/simple_tokenizer.py. Raises UserError where ftfy is not installed.
    """
    try:
        import ftfy
    except ImportError as error:
        raise UserError(
            "rules='openai' needs ftfy: pip install 'diffjax[openai]'", "rules"
        ) from error
    ids = {token.content: token.id for token in (start, end)}
    words = regex.compile(f"{_any_of(ids)}|{_WORDS}", regex.IGNORECASE)

    def split(text: str) -> Iterator[int | str]:
        if not (text.isascii() and text.isprintable() and "&" not in text):
            text = html.unescape(html.unescape(ftfy.fix_text(text)))  # else nothing to mend
        text = text.strip()
        text = _SPACES.sub(" ", text).strip().lower()
        return (ids.get(word, word) for word in words.findall(text))

    return split


# Lowered too late to be special tokens, these words still end what is before them.
_REOPENED = {f"<|{name}|>": ("<|", name, "|>") for name in ("startoftext", "endoftext")}
_TRANSFORMERS = regex.compile(rf"<\|startoftext\|>|<\|endoftext\|>|{_WORDS}")


def transformers(specials: Iterable[Special]) -> Rule:
    """The rules of transformers' CLIPTokenizer, release 5.

    Special tokens are split off first, the longest where several begin. Python's tables of Unicode
    lower the letters: letters that are newer than these tables stay as they are.
    """
    specials = list(specials)
    exact = _splitter({token.content: token.id for token in specials if not token.folded})
    folded = _splitter({_fold(token.content): token.id for token in specials if token.folded})

    def split(text: str) -> Iterator[int | str]:
        for part in exact(text):
            if isinstance(part, int):
                yield part
                continue
            for piece in folded(_fold(part)):
                if isinstance(piece, int):
                    yield piece
                else:
                    yield from _words(piece)

    return split


def _words(text: str) -> list[str]:
    found: list[str] = _TRANSFORMERS.findall(text)
    if "<|" in text:
        return [word for one in found for word in _REOPENED.get(one, (one,))]
    return found


def _fold(text: str) -> str:
    text = _SPACES.sub(" ", nfc(text))
    if "Σ" in text:  # str.lower knows the sigma that ends a word, the reference does not
        return "".join(character.lower() for character in text)
    return text.lower()


def _splitter(ids: Mapping[str, int]) -> Rule:
    """Splits a text at the special tokens, which become ids."""
    if not ids:
        return lambda text: (text,)
    pattern = regex.compile(f"({_any_of(ids)})")

    def split(text: str) -> list[int | str]:
        parts = pattern.split(text)
        parts[1::2] = [ids[token] for token in parts[1::2]]
        return parts

    return split


def _any_of(tokens: Iterable[str]) -> str:
    return "|".join(map(regex.escape, sorted(tokens, key=len, reverse=True)))

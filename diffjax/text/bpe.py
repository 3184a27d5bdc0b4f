"""Byte-pair encoding of words (Sennrich et al. 2016, arXiv:1508.07909) over the bytes of UTF-8."""

import heapq
import itertools
from collections.abc import Iterable, Mapping, Sequence

END_OF_WORD = "</w>"
MOST_CACHED = 2**16  # words; texts have few distinct ones, and an attacker many
LONGEST_CACHED = 64  # characters


def _byte_symbols() -> list[str]:
    """One visible character per byte, as in GPT-2: Latin-1's own, then those from 256 on."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


BYTE_SYMBOLS = _byte_symbols()
_BYTE_OF = {symbol: byte for byte, symbol in enumerate(BYTE_SYMBOLS)}
_FROM_LATIN_1 = dict(enumerate(BYTE_SYMBOLS))


class BPE:
    """The token ids of a word, by a vocabulary and by merges in the order of their rank.

    A symbol that the vocabulary does not have becomes `unknown`, which must be in the vocabulary.
    """

    def __init__(
        self, vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]], unknown: str
    ) -> None:
        self._ids = dict(vocabulary)
        self._tokens = {index: token for token, index in self._ids.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._unknown = unknown
        self._cache: dict[str, tuple[int, ...]] = {}

    @property
    def vocabulary(self) -> dict[str, int]:
        """Ids by token."""
        return dict(self._ids)

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs that are merged, in the order of their rank."""
        return list(self._ranks)

    @property
    def unknown(self) -> str:
        """The token that stands for symbols without an id."""
        return self._unknown

    def __call__(self, word: str) -> tuple[int, ...]:
        """The ids of a word, which has one character or more and no lone surrogates."""
        found = self._cache.get(word)
        if found is None:
            found = tuple(self._ids[symbol] for symbol in self._merged(self._symbols(word)))
            if len(word) <= LONGEST_CACHED and len(self._cache) < MOST_CACHED:
                self._cache[word] = found
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, with a space after each word; unknown ids and bytes are U+FFFD."""
        joined = "".join(self._tokens.get(index, "\ufffd") for index in ids)
        content = b"".join(_bytes(symbol) for symbol in joined.replace(END_OF_WORD, " "))
        return content.decode("utf-8", errors="replace")

    def _symbols(self, word: str) -> list[str]:
        symbols = list(word.encode().decode("latin-1").translate(_FROM_LATIN_1))
        symbols[-1] += END_OF_WORD
        return [symbol if symbol in self._ids else self._unknown for symbol in symbols]

    def _merged(self, symbols: list[str]) -> list[str]:
        """Merges the pair of the lowest rank, the leftmost first, until no pair has a rank.

        A heap holds the ranked pairs by the position of their left symbol: a long word without a
        space, as in Chinese, takes n log n steps.
        """
        ranks, count = self._ranks, len(symbols)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        pairs = enumerate(itertools.pairwise(symbols))
        heap = [(ranks[pair], left) for left, pair in pairs if pair in ranks]
        heapq.heapify(heap)
        while heap:
            rank, left = heapq.heappop(heap)
            right = after[left]
            if right == count or ranks.get((symbols[left], symbols[right])) != rank:
                continue  # one of the two has been merged with another since
            symbols[left] += symbols[right]
            symbols[right] = ""  # which no pair contains
            after[left] = after[right]
            if after[left] < count:
                before[after[left]] = left
            for first in (before[left], left):
                second = after[first] if first >= 0 else count
                if second < count and (pair := (symbols[first], symbols[second])) in ranks:
                    heapq.heappush(heap, (ranks[pair], first))
        return [symbol for symbol in symbols if symbol]


def _bytes(symbol: str) -> bytes:
    byte = _BYTE_OF.get(symbol)
    return symbol.encode() if byte is None else bytes([byte])

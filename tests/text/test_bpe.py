"""Merges by rank, over the bytes of UTF-8."""

import itertools

import numpy as np
import pytest

from diffjax.text.bpe import BPE, BYTE_SYMBOLS, END_OF_WORD

MERGES = [("a", "b"), ("b", "c</w>"), ("ab", "ab"), ("a", "a"), ("aa", "aa")]


@pytest.fixture
def bpe():
    tokens = [*BYTE_SYMBOLS, *(symbol + END_OF_WORD for symbol in BYTE_SYMBOLS)]
    tokens += map("".join, MERGES)
    return BPE({token: index for index, token in enumerate(tokens)}, MERGES, "?")


def pieces(bpe, word):
    return [bpe.text([index]) for index in bpe(word)]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("abc", ["ab", "c "]),  # the lower rank, though bc would be longer from the right
        ("bc", ["bc "]),
        ("xbc", ["x", "bc "]),
        ("ababab", ["abab", "a", "b "]),  # "b</w>" is not "b"
        ("abababab", ["abab", "ab", "a", "b "]),
        ("aaaaa", ["aaaa", "a "]),  # the leftmost pair first
        ("a", ["a "]),
    ],
)
def test_merges(bpe, word, expected):
    assert pieces(bpe, word) == expected


def test_a_merge_of_the_lowest_rank_comes_first_wherever_it_is():
    """As the definition says it, one merge at a time over the whole word."""
    rng = np.random.default_rng(0)
    letters = [*"abc", *(f"{c}</w>" for c in "abc")]
    merges = []
    for _ in range(40):
        left, right = rng.choice(letters, 2)
        if not left.endswith(END_OF_WORD) and left + right not in letters:
            merges.append((str(left), str(right)))
            letters.append(str(left + right))
    bpe = BPE({token: index for index, token in enumerate(letters)}, merges, "a")
    for length in range(1, 40):
        word = "".join(rng.choice([*"abc"], length))
        expected = [*word[:-1], word[-1] + END_OF_WORD]
        while found := [m for m in merges if m in list(itertools.pairwise(expected))]:
            at = list(itertools.pairwise(expected)).index(found[0])
            expected[at : at + 2] = ["".join(found[0])]
        assert bpe(word) == tuple(letters.index(symbol) for symbol in expected), word


def test_bytes_have_distinct_visible_symbols():
    assert len(set(BYTE_SYMBOLS)) == 256
    assert all(len(symbol) == 1 and not symbol.isspace() for symbol in BYTE_SYMBOLS)
    assert BYTE_SYMBOLS[ord("a")] == "a"
    assert BYTE_SYMBOLS[0] == "Ā"  # GPT-2's choice for the first byte that is not visible


def test_text_of_many_bytes(bpe):
    assert bpe.text(bpe("é🙂")) == "é🙂 "
    assert len(bpe("é🙂")) == 6


def test_unknown_symbols_become_the_unknown_token():
    bpe = BPE({"a": 0, "a</w>": 1, "?": 2}, [], "?")
    assert bpe("aba") == (0, 2, 1)
    assert bpe("ab") == (0, 2)


def test_a_long_word_takes_no_quadratic_time(bpe):
    assert len(bpe("ab" * 50_000)) == 25_002

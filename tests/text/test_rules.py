"""How texts become words and special tokens."""

import sys
import unicodedata

import pytest

from diffjax.errors import UserError
from diffjax.text.rules import Special, openai, transformers
from diffjax.text.unicode9 import nfc

START, END = Special("<|startoftext|>", 1), Special("<|endoftext|>", 2)


def split(text, *specials):
    return list(transformers(specials or (START, END))(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t\u3000", []),
        ("A red  Apple", ["a", "red", "apple"]),
        ("it's they'RE don''t", ["it", "'s", "they", "'re", "don", "''", "t"]),
        ("no. 42!!", ["no", ".", "4", "2", "!!"]),
        ("e\u0301", ["é"]),
        ("&amp; â€™", ["&", "amp", ";", "â", "€™"]),  # neither HTML nor mojibake is mended
        ("ΑΣ", ["ας".replace("ς", "σ")]),  # a character at a time: no final sigma
        ("a<|endoftext|>b", ["a", 2, "b"]),
        ("<|ENDOFTEXT|>!", ["<|", "endoftext", "|>", "!"]),  # lowered too late to be special
        ("\x1c", ["\x1c"]),  # a separator for Python alone
    ],
)
def test_transformers(text, expected):
    assert split(text) == expected


def test_special_tokens_of_a_folder():
    pad = Special("!", 0)
    assert split("hi!!", START, END, pad) == ["hi", 0, 0]
    folded = Special("<|endoftext|>", 2, folded=True)
    assert split("<|EndOfText|>", START, folded) == [2]
    unequal = Special("=", 4, folded=True)  # looked for after NFC, which makes one sign of two
    assert split("=\u0338", START, END, unequal) == ["≠"]
    longer = Special("<|endoftext|>s", 3)
    assert split("<|endoftext|>s", END, longer) == [3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("it&amp;#39;s", ["it", "'s"]),
        ("<b> &amp;lt;", ["<", "b", ">", "<"]),  # ftfy leaves HTML with tags alone
        ("x'ſ", ["x", "'ſ"]),  # a long s is an s in any case
        ("schÃ¶n", ["schön"]),
        ("“Hi”  ΑΣ", ['"', "hi", '"', "ας"]),
        ("a<|endoftext|>b", ["a", 2, "b"]),
        ("<|EndOfText|>", [2]),
    ],
)
def test_openai(text, expected):
    pytest.importorskip("ftfy", reason="pip install -e '.[openai]'")
    assert list(openai(START, END)(text)) == expected


def test_openai_names_the_extra_where_ftfy_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UserError, match=r"needs ftfy: pip install 'diffjax\[openai\]'"):
        openai(START, END)


def test_nfc_knows_the_marks_of_unicode_9_alone():
    assert nfc("e\u0323\u0302") == "ệ"
    assert nfc("a\u0301\u0316") == "á\u0316"
    # U+1DFA came with Unicode 14, of class 218: today it moves before U+0301, of class 230.
    assert nfc("q\u0301\u1dfa") == "q\u0301\u1dfa"
    assert unicodedata.normalize("NFC", "q\u0301\u1dfa") == "q\u1dfa\u0301"

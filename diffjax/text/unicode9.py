"""NFC as Unicode 9 had it, which is what transformers' tokenizers compute."""

import unicodedata

import regex

# Combining marks that Unicode has had since release 10. For release 9 each is a character by
# itself: no mark moves past it. What Python's tables do between two of them does not differ.
_LATER = """
    5C8-5C9 7FD 897-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1AF0 1DF6-1DFA A82C 10D24-10D27
    10D69-10D6D 10EAB-10EAC 10ECB-10EFF 10F46-10F50 10F82-10F85 11070 1133B 113CE-113D0 1145E
    11839-1183A 1193D-1193E 11943 119E0 11A34 11A47 11A99 11D42 11D44-11D45 11D97 11F41-11F42
    1612F 16FF0-16FF1 1D127-1D128 1D250-1D281 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E6F5
"""


def _range(text: str) -> str:
    first, _, last = text.partition("-")
    return f"\\U{first:0>8}-\\U{last or first:0>8}"


_LATER_MARK = regex.compile(f"([{''.join(map(_range, _LATER.split()))}])")


def nfc(text: str) -> str:
    """The text in Normalization Form C."""
    if text.isascii():
        return text
    return "".join(unicodedata.normalize("NFC", part) for part in _LATER_MARK.split(text))

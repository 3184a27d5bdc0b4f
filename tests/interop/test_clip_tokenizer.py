"""CLIP's tokenizer from the package and from folders; its ids are those of transformers 5.24."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

import diffjax as dj
from diffjax.text.bpe import BYTE_SYMBOLS, END_OF_WORD

START, END = 49406, 49407
IDS = {
    "a red apple on a table": [320, 736, 3055, 525, 320, 2175],
    "an emoji of a cat 🙂, it's naïve": [
        550, 16327, 539, 320, 2368, 32006, 267, 585, 568, 1097, 35689, 563,
    ],
    "日本語の文章 — ΑΣ e\u0301 42": [
        39121, 44353, 34002, 252, 21575, 29032, 229, 163, 104, 510, 2005, 138, 109, 139, 481,
        4166, 275, 273,
    ],
    "hi! !!": [1883, 256, 748],
    "<|ENDOFTEXT|>": [27, 347, 40786, 4160, 91, 285],
    "": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return dj.load_tokenizer()


def test_a_saved_tokenizer_is_read_again(tokenizer, tmp_path):
    short = dataclasses.replace(tokenizer, length=9)
    dj.save_tokenizer(short, tmp_path / "saved")
    again = dj.load_tokenizer(tmp_path / "saved")
    texts = [*IDS, "a text of many more words than nine"]
    np.testing.assert_array_equal(again(texts), short(texts))
    assert (again.start, again.end, again.pad, again.length) == (START, END, END, 9)
    assert again.cut_off(texts[-1]) == short.cut_off(texts[-1])
    (tmp_path / "file").touch()
    with pytest.raises(dj.UserError, match="cannot write"):
        dj.save_tokenizer(short, tmp_path / "file")


def content(row):
    row = row.tolist()
    assert row[0] == START
    return row[1 : row.index(END)]


def test_known_ids(tokenizer):
    rows = tokenizer(list(IDS))
    assert (rows.shape, rows.dtype) == ((len(IDS), 77), np.int32)
    for row, expected in zip(rows, IDS.values(), strict=True):
        assert content(row) == expected
        assert (row[1 + len(expected) :] == END).all()


def test_a_long_text_is_cut_and_its_end_token_kept(tokenizer):
    rows = tokenizer(["a " * 75, "a " * 76, "a " * 77, "ab" * 5000])
    assert (rows[:3] == [START, *[320] * 75, END]).all()
    assert rows[3, -1] == END
    assert (rows[3, :-1] != END).all()


def test_what_is_cut_off_a_long_text(tokenizer):
    words = [f"word{i}" for i in range(1000)]
    (ids,) = tokenizer([" ".join(words)])
    kept, cut = tokenizer.decode(ids), tokenizer.cut_off(" ".join(words))
    assert "".join((kept + cut).split()) == "".join(words)
    assert tokenizer.cut_off("a " * 75) == ""
    assert tokenizer.cut_off("a " * 76) == "a"


def test_openai_pads_with_zero():
    pytest.importorskip("ftfy", reason="pip install -e '.[openai]'")
    row = dj.load_tokenizer(rules="openai")(["A red &amp;amp; blue apple"])[0]
    assert row[:8].tolist() == [START, 320, 736, 261, 1746, 3055, END, 0]
    assert not row[7:].any()


def test_round_trips(tokenizer):
    texts = ["two dogs running , 3 cats", "привет мир", "日本語 の 文章", "🙂 naïve café"]
    rows = tokenizer(texts)
    assert [tokenizer.decode(row) for row in rows] == texts
    assert (tokenizer([tokenizer.decode(row) for row in rows]) == rows).all()


def test_no_texts(tokenizer):
    assert tokenizer([]).shape == (0, 77)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a red apple", "texts is of type str: give a list of str"),
        (None, "texts is of type NoneType"),
        (["a", 3], "text 1 is of type int: give a str"),
        ([b"a"], "text 0 is of type bytes"),
        (["a", "b\ud800"], r"text 1 has a lone surrogate, '\\ud800', at position 1"),
    ],
)
def test_what_is_no_list_of_texts(tokenizer, texts, message):
    call = type(tokenizer).__call__
    with pytest.raises(dj.UserError, match=message) as raised:
        getattr(call, "__wrapped__", call)(tokenizer, texts)  # without the tests' check of types
    assert "\n" not in str(raised.value)


# A small vocabulary: the bytes, three merges, and the special tokens.
MERGES = ["a b", "c d</w>", "ab cd</w>"]
TOKENS = [*BYTE_SYMBOLS, *(symbol + END_OF_WORD for symbol in BYTE_SYMBOLS)]
TOKENS += [merge.replace(" ", "") for merge in MERGES] + ["<|startoftext|>", "<|endoftext|>"]
VOCABULARY = {token: index for index, token in enumerate(TOKENS)}
ABCD, FIRST, LAST = (VOCABULARY[t] for t in ("abcd</w>", "<|startoftext|>", "<|endoftext|>"))
A = VOCABULARY["a</w>"]
ADDED = [
    {"id": index, "content": TOKENS[index], "normalized": False, "special": True}
    for index in (FIRST, LAST)
]


def legacy(folder, **files):
    """The layout of 2022; `files` are written besides, or instead."""
    files = {
        "vocab.json": VOCABULARY,
        "merges.txt": "\n".join(["#version: 0.2", *MERGES, ""]),
        "tokenizer_config.json": {"model_max_length": 6, "pad_token": "<|endoftext|>"},
    } | files
    return written(folder, files)


def modern(folder, model=None, **files):
    model = {"type": "BPE", "vocab": VOCABULARY, "merges": [m.split(" ") for m in MERGES]} | (
        model or {}
    )
    whole = {"added_tokens": ADDED, "model": model}
    config = {"model_max_length": 6, "pad_token": "<|endoftext|>"}
    return written(folder, {"tokenizer.json": whole, "tokenizer_config.json": config} | files)


def written(folder, files):
    for name, value in files.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            (folder / name).write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize("layout", [legacy, modern])
def test_folders(layout, tmp_path):
    tokenizer = dj.load_tokenizer(layout(tmp_path))
    rows = tokenizer(["abcd a", "", "a a a a a a"])
    assert rows.tolist() == [
        [FIRST, ABCD, A, LAST, LAST, LAST],
        [FIRST, LAST, LAST, LAST, LAST, LAST],
        [FIRST, A, A, A, A, LAST],
    ]
    assert tokenizer.decode(rows[0]) == "abcd a"


def test_merges_as_older_releases_write_them(tmp_path):
    folder = modern(tmp_path, {"merges": MERGES})
    assert dj.load_tokenizer(folder)(["abcd"])[0, 1] == ABCD


def test_the_padding_token_of_a_folder_is_split_off_too(tmp_path):
    """SD2 pads with "!", which is 0, and reads every "!" of a text as that."""
    bang = VOCABULARY["!"]
    folder = legacy(tmp_path, **{"special_tokens_map.json": {"pad_token": "!"}})
    rows = dj.load_tokenizer(folder)(["a!"])
    assert rows.tolist() == [[FIRST, A, bang, LAST, bang, bang]]


def test_added_tokens(tmp_path):
    folder = legacy(tmp_path, **{"added_tokens.json": {"<Toy>": len(TOKENS)}})
    assert dj.load_tokenizer(folder)(["a <toy>"])[0, :4].tolist() == [FIRST, A, len(TOKENS), LAST]
    config = {"added_tokens_decoder": {str(len(TOKENS)): {"content": "<Toy>", "special": True}}}
    folder = legacy(tmp_path, **{"tokenizer_config.json": config})
    row = dj.load_tokenizer(folder)(["<Toy>a"])[0]
    assert row.shape == (77,)  # no model_max_length
    assert row[:4].tolist() == [FIRST, len(TOKENS), A, LAST]


CONFIG = "tokenizer_config.json"
WITHOUT_END = {token: i for token, i in VOCABULARY.items() if token != "<|endoftext|>"}
DAMAGES = [
    (legacy, {"vocab.json": None}, "neither tokenizer.json nor vocab.json"),
    (legacy, {"merges.txt": None}, r"neither tokenizer.json nor merges\.txt"),
    (legacy, {"vocab.json": '{"a": '}, "vocab.json is not JSON"),
    (legacy, {"vocab.json": "[" * 100_000}, "vocab.json is not JSON"),
    (legacy, {"vocab.json": [1]}, "not a JSON object"),
    (legacy, {"vocab.json": {"a": "b"}}, "an object from tokens to ids"),
    (legacy, {"vocab.json": {"a": 2**31}}, "an object from tokens to ids"),
    (legacy, {"vocab.json": WITHOUT_END}, r"has no special token '<\|endoftext\|>'"),
    (legacy, {"merges.txt": "a b c"}, "merge 1 is 'a b c', not two tokens"),
    (legacy, {"merges.txt": "a b\nx y"}, "merge 2, 'x y', is not in the vocabulary"),
    (legacy, {CONFIG: {"pad_token": "[PAD]"}}, r"has no special token '\[PAD\]'"),
    (legacy, {CONFIG: {"pad_token": 3}}, "3 is no special token"),
    (legacy, {CONFIG: {"pad_token": {"content": "!", "lstrip": True}}}, "lstrip .* not supported"),
    (legacy, {CONFIG: {"model_max_length": 1}}, "model_max_length is 1, not 2 to"),
    (legacy, {CONFIG: {"model_max_length": "77"}}, "model_max_length is '77'"),
    (legacy, {CONFIG: {"padding_side": "left"}}, "padding_side='left' is not supported"),
    (legacy, {CONFIG: {"tokenizer_class": "T5Tokenizer"}}, "of a 'T5Tokenizer', not a CLIPTok"),
    (legacy, {CONFIG: {"added_tokens_decoder": {"x": {}}}}, "an object from ids to tokens"),
    (legacy, {"added_tokens.json": {"<toy>": -1}}, "the id of an added token is -1"),
    (modern, {"model": {"type": "WordPiece"}}, "its model is not of the type BPE"),
    (modern, {"model": {"vocab": None}}, "an object from tokens to ids"),
    (modern, {"model": {"merges": "a b"}}, "merges must be a list"),
    (modern, {"model": {"merges": [["a"]]}}, r"merge 1 is \['a'\], not two tokens"),
    (modern, {"model": {"merges": [[1, 2]]}}, "merge 1"),
    (modern, {"model": {"merges": [[["a"], "b"]]}}, "merge 1"),
    (modern, {"tokenizer.json": {"model": 3}}, "its model is not of the type BPE"),
]


@pytest.mark.parametrize(("layout", "files", "message"), DAMAGES)
def test_refused_in_one_line(layout, files, message, tmp_path):
    with pytest.raises(dj.UserError, match=message) as raised:
        dj.load_tokenizer(layout(tmp_path, **files))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_merges_that_are_no_text(tmp_path):
    folder = legacy(tmp_path)
    (folder / "merges.txt").write_bytes(b"a b\n\xff\xfe")
    with pytest.raises(dj.UserError, match=r"merges\.txt is not text in UTF-8"):
        dj.load_tokenizer(folder)


def test_files_are_read_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr("diffjax.interop.json_files.MOST_TEXT", 1000)
    with pytest.raises(dj.UserError, match=r"vocab\.json has more than 1,000 bytes"):
        dj.load_tokenizer(legacy(tmp_path))


def test_no_folder_a_pipeline_and_other_rules(tmp_path):
    with pytest.raises(dj.UserError, match="no folder"):
        dj.load_tokenizer(tmp_path / "none")
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(dj.UserError, match=r"is a whole pipeline: load .*tokenizer"):
        dj.load_tokenizer(tmp_path)
    with pytest.raises(dj.UserError, match="rules='clip': choose transformers or openai") as raised:
        dj.load_tokenizer(rules="clip")
    assert raised.value.option == "rules"


def test_the_licence_is_shipped():
    root = pathlib.Path(__file__).parent.parent.parent / "third_party" / "clip_bpe"
    assert "OpenAI" in (root / "LICENSE").read_text()

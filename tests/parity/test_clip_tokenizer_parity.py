"""Token ids are transformers' and OpenAI's on fuzzed strings, pixels CLIPImageProcessor's."""

import gzip
import importlib.resources
import importlib.util
import json
import pathlib
import random
import shutil
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

import diffjax as dj

pytestmark = pytest.mark.parity
sys.modules["torchvision"] = (
    None  # transformers imports it where it is there, matching torch or not
)
transformers = pytest.importorskip("transformers", reason="pip install -e '.[parity]'")

START, END = "<|startoftext|>", "<|endoftext|>"
COUNT, SOME = 20_000, 2_000  # strings: against each reference, and for each form of folder
CHARACTERS = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) not in ("Cn", "Cs")
]
MARKS = [c for c in CHARACTERS if unicodedata.combining(c)]
SPACES = [c for c in CHARACTERS if c.isspace()] + ["\u200b", "\ufeff", "\x00", "\x7f", "\x1b[31m"]
TEXT = (
    "a red apple on the table photograph of two dogs running it's they'RE I'll don''t '' 's 'LL "
    "x'ſ ıİ ΣΑΣ ὈΔΥΣΣΕΎΣ Straße ﬁne Ⅻ ½ ² 1234 ٣٤ 3.14 naïve Ångström \u212a Привет мир "
    "日本語の文章 한국어 \u1100\u1161\u11a8 สวัสดี नमस्ते שָׁלוֹם العربية Việt e\u0301 \u0344 \u0308 "
    "ﷺ ＦＵ 🙂 👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ #️⃣ … — ‘ ’ “ ” &amp; &amp;lt; &#39; &#x1F600; &nbsp; &not; "
    "&quot;hi&quot; Ã© â€™ schÃ¶n âœ” <b>bold</b> http://a.b/c?d=e_f C++ !!! ?! ... $9.99 #tag"
)
WORDS = TEXT.split()
SPECIALS = [START, END, START.upper(), "<|EndOfText|>", "<|ſtartoftext|>", "<|", "|>", "<|end", "!"]


def texts(seed, specials=SPECIALS, total=COUNT):
    """Strings of words, characters of all scripts, marks, spaces and special tokens."""
    rng = random.Random(seed)
    pools = [WORDS, WORDS, CHARACTERS, MARKS, SPACES, list("abcXYZ'019.,!"), specials or WORDS]
    found = ["", " ", "\n\t", "!", "a " * 200, "字" * 400, "🙂" * 90, "x" * 3000]
    found += [special * 2 for special in specials or ()]
    while len(found) < total:
        join = rng.choice(["", " ", " ", "\u3000"])
        count = rng.choice([1, 2, 5, 12, 12, 40])
        found.append(join.join(rng.choice(rng.choice(pools)) for _ in range(count)))
    return found


def assert_equal(ours, theirs, given):
    wrong = np.flatnonzero((ours != theirs).any(-1))
    first = [(given[i], ours[i].tolist(), theirs[i].tolist()) for i in wrong[:1]]
    assert not len(wrong), f"{len(wrong)} of {len(given)}, at first {first}"


def theirs_of(tokenizer, given):
    rows = tokenizer(given, padding="max_length", max_length=77, truncation=True)["input_ids"]
    return np.asarray(rows)


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, **flags}


NAMED = {
    "bos_token": token(START, normalized=True),
    "eos_token": token(END, normalized=True),
    "unk_token": token(END, normalized=True),
    "pad_token": END,
}
IN_CONFIG = {
    role: {"__type": "AddedToken", **value} if isinstance(value, dict) else value
    for role, value in NAMED.items()
}
# Tokenizers as published folders have them: tokenizer_config.json and special_tokens_map.json.
FOLDERS = {
    "sd15": ({**IN_CONFIG, "model_max_length": 77, "do_lower_case": True}, NAMED),
    "sd2": ({**IN_CONFIG, "model_max_length": 77}, {**NAMED, "pad_token": "!"}),
    "sdxl's second": (
        {
            "added_tokens_decoder": {
                "0": token("!", normalized=False, special=True),
                "49406": token(START, normalized=True, special=True),
                "49407": token(END, normalized=False, special=True),
            },
            "bos_token": START,
            "eos_token": END,
            "pad_token": "!",
            "unk_token": END,
            "model_max_length": 77,
        },
        NAMED,
    ),
    "no config": (None, None),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """vocab.json and merges.txt, made from OpenAI's merges as OpenAI does."""
    path = importlib.resources.files("diffjax.third_party") / "clip_bpe"
    text = gzip.decompress((path / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    merges = text.split("\n")[1 : 49152 - 256 - 2 + 1]
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in kept] + [chr(256 + i) for i in range(256 - len(kept))]
    tokens = symbols + [f"{symbol}</w>" for symbol in symbols]
    tokens += [merge.replace(" ", "") for merge in merges] + [START, END]
    folder = tmp_path_factory.mktemp("published")
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return folder


@pytest.fixture
def folder(published, tmp_path):
    """A copy of the published folder that a test may add to."""
    return pathlib.Path(shutil.copytree(published, tmp_path / "tokenizer"))


def test_without_a_folder(published):
    given = texts(0)
    theirs = theirs_of(transformers.CLIPTokenizer.from_pretrained(published), given)
    ours = dj.load_tokenizer()(given)
    assert ours.dtype == np.int32
    assert_equal(ours, theirs, given)
    assert (ours[:, 0] == 49406).all()
    assert (ours == 49407).any(-1).all()
    assert 0.02 < (ours[:, -2] != 49407).mean() < 0.5  # those that were cut


@pytest.mark.parametrize("name", FOLDERS)
def test_published_folders(name, folder):
    given = texts(1, total=SOME)
    config, named = FOLDERS[name]
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "special_tokens_map.json").write_text(json.dumps(named))
    theirs = theirs_of(transformers.CLIPTokenizer.from_pretrained(folder), given)
    assert_equal(dj.load_tokenizer(folder)(given), theirs, given)


@pytest.mark.parametrize("pad", [END, "!"])
def test_folders_of_today(pad, published, tmp_path):
    given = texts(3, total=SOME)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(published, pad_token=pad)
    tokenizer.model_max_length = 30
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    again = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    theirs = np.asarray(again(given, padding="max_length", truncation=True)["input_ids"])
    assert theirs.shape == (len(given), 30)
    assert_equal(dj.load_tokenizer(tmp_path)(given), theirs, given)


def test_tokens_that_were_added(folder):
    (folder / "added_tokens.json").write_text(json.dumps({"<Cat-toy>": 49408, "[PAD]": 49409}))
    (folder / "special_tokens_map.json").write_text(json.dumps({**NAMED, "pad_token": "[PAD]"}))
    given = texts(4, ["<Cat-toy>", "<cat-toy>", "<CAT-TOY>s", "[PAD]", "[pad]"], SOME)
    theirs = theirs_of(transformers.CLIPTokenizer.from_pretrained(folder), given)
    ours = dj.load_tokenizer(folder)(given)
    assert_equal(ours, theirs, given)
    assert (ours == 49408).any()
    assert (ours[0, 2:] == 49409).all()


@pytest.mark.parametrize(
    ("package", "path", "specials", "total"),
    [
        ("clip", "simple_tokenizer.py", SPECIALS, COUNT),
        ("open_clip", "tokenizer.py", None, SOME),  # its special tokens have other names
    ],
)
def test_openai(package, path, specials, total):
    pytest.importorskip("ftfy", reason="pip install -e '.[openai]'")
    theirs = simple_tokenizer(package, path)
    given = texts(2, specials, total)
    rows = [[49406, *theirs.encode(text), 49407] for text in given]
    rows = [row if len(row) <= 77 else [*row[:76], 49407] for row in rows]
    padded = np.asarray([row + [0] * (77 - len(row)) for row in rows])
    assert_equal(dj.load_tokenizer(rules="openai")(given), padded, given)


def simple_tokenizer(package, path):
    """The tokenizer of a package whose other files need torchvision."""
    found = importlib.util.find_spec(package)
    if found is None:
        pytest.skip("pip install --no-deps clip-anytorch==2.6.0 open_clip_torch==3.3.0")
    file = pathlib.Path(found.origin).with_name(path)
    spec = importlib.util.spec_from_file_location(f"{package}_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


SIZES = [(224, 224), (225, 224), (500, 333), (333, 500), (1, 3), (640, 427), (17, 300), (1000, 251)]


def pictures(mode):
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        small = rng.integers(0, 256, (max(height // 8, 1), max(width // 8, 1), 4), np.uint8)
        image = Image.fromarray(small).resize((width, height))
        yield image.convert("RGB").convert(mode) if mode == "P" else image.convert(mode)


@pytest.fixture(scope="module")
def reference():
    module = "transformers.models.clip.image_processing_pil_clip"
    pil = pytest.importorskip(module, reason="pip install 'transformers>=5.24'")
    return pil.CLIPImageProcessorPil


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "LA"])
def test_pixels(mode, reference):
    given = list(pictures(mode))
    theirs = reference()(given, return_tensors="np")["pixel_values"]
    found = dj.load_image_processor()(given)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, theirs.transpose(0, 2, 3, 1), rtol=0, atol=1e-6)


def test_pixels_by_a_folder(reference, tmp_path):
    theirs = reference(
        size={"shortest_edge": 61}, crop_size={"height": 33, "width": 50}, resample=2,
        image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.25, 0.2],
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    given = [np.asarray(image) for image in pictures("RGB")]
    expected = theirs(given, return_tensors="np", input_data_format="channels_last")
    found = dj.load_image_processor(tmp_path)(given)
    np.testing.assert_allclose(
        found, expected["pixel_values"].transpose(0, 2, 3, 1), rtol=0, atol=1e-6
    )

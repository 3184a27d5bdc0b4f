"""What a match page holds, and what a reader does with it: compared with NumPy's ranking."""

import base64
import io
import json
import re

import numpy as np
import pytest
from browser import act
from PIL import Image

from diffjax.display.match_page import LARGEST_CELL, MatchPage, render_match, save_match_page

COUNT, WIDTH, SCALE = 40, 16, 20.0
MARKUP = "</script><img src=x onerror=\"document.title=1\"> '&lt;' 👟"
TEXTS = [f"a photo of {word}" for word in ("a cat", "a dog", "one cup", "Trees", "trains")]
TEXTS += ["un café crème", MARKUP, *(f"number {i}" for i in range(12))]

READ = """
const shown = () => [...document.querySelectorAll("#pictures li")].map(item => ({
  index: Number(item.querySelector("button").dataset.index),
  label: item.querySelector("button").getAttribute("aria-label"),
  pressed: item.querySelector("button").getAttribute("aria-pressed"),
  now: Number(item.querySelector("[role=meter]").getAttribute("aria-valuenow")),
  filled: parseFloat(item.querySelector(".bar span").style.width),
  share: item.querySelector(".share").textContent,
  right: item.querySelector(".mark") !== null,
}));
const captions = () => [...document.querySelectorAll("#captions li")].map(item => ({
  index: Number(item.querySelector("button").dataset.index),
  text: item.querySelector("button").textContent,
  cosine: item.querySelector(".cosine").textContent,
  filled: parseFloat(item.querySelector(".bar span").style.width),
  share: item.querySelector(".share").textContent,
  mark: item.querySelector(".mark")?.textContent ?? null,
}));
const type = text => {
  const input = document.getElementById("text");
  input.value = text;
  input.dispatchEvent(new Event("input", { bubbles: true }));
};
const state = () => ({
  pictures: shown(), captions: captions(),
  status: document.getElementById("status").textContent,
  near: [...document.querySelectorAll("#near button")].map(button => button.textContent),
  invalid: document.getElementById("text").getAttribute("aria-invalid"),
  heading: document.getElementById("found").textContent,
  own: document.getElementById("own").textContent,
});
"""


def page_of(count=COUNT, texts=TEXTS, size=9, width=WIDTH, channels=3):
    rng = np.random.default_rng(0)
    return MatchPage(
        title=MARKUP,
        subtitle=MARKUP,
        images=rng.integers(0, 256, (count, size, size + 3, channels), np.uint8),
        captions=[texts[i % len(texts)] for i in range(count - 1)] + [""],
        texts=texts,
        image_embeddings=rng.normal(0.3, 1, (count, width)).astype(np.float32),
        text_embeddings=7 * rng.normal(0.3, 1, (len(texts), width)).astype(np.float32),
        logit_scale=SCALE,
    )


def held(text):
    """What the page's script is given."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(data)


def unpacked(data, key):
    flat = np.frombuffer(base64.b64decode(data[key]), "<f2").astype(np.float64)
    return flat.reshape(-1, data["dimensions"])


def sheet_of(text):
    (url,) = re.findall(r'<img id="sheet" src="(.*?)"', text)
    return Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))


def ranking(data, rows, others, place):
    """The nearest first; cosine, how far each bar is filled, and the softmax in percent."""
    cosine = unpacked(data, rows) @ unpacked(data, others)[place]
    order = np.argsort(-cosine, kind="stable")
    cosine = cosine[order]
    filled = 100 * (cosine - cosine.min()) / np.ptp(cosine)
    share = np.exp(data["scale"] * (cosine - cosine.max()))
    return order, cosine, filled, 100 * share / share.sum()


@pytest.fixture(scope="module")
def page():
    return page_of()


@pytest.fixture(scope="module")
def path(page, tmp_path_factory):
    path = tmp_path_factory.mktemp("match") / "match.html"
    save_match_page(path, page)
    return path


@pytest.fixture(scope="module")
def data(path):
    return held(path.read_text("utf-8"))


def test_embeddings_are_held_as_unit_vectors(page, data):
    for key, rows in (("images", page.image_embeddings), ("words", page.text_embeddings)):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(unpacked(data, key), unit, rtol=2**-11, atol=2**-25)
    assert data["texts"] == TEXTS
    assert data["captions"] == page.captions
    assert data["scale"] == SCALE


@pytest.mark.parametrize("channels", [1, 3])
def test_every_picture_is_in_its_cell(channels):
    page = page_of(channels=channels)
    text = render_match(page)
    data, sheet = held(text), np.asarray(sheet_of(text)).reshape(6 * 9, 7 * 12, channels)
    assert (data["columns"], data["height"], data["width"]) == (7, 9, 12)
    for i, image in enumerate(page.images):
        top, left = 9 * (i // 7), 12 * (i % 7)
        np.testing.assert_array_equal(sheet[top : top + 9, left : left + 12], image)


def test_large_pictures_are_reduced():
    page = page_of(count=3, size=200)
    data = held(render_match(page))
    assert (data["height"], data["width"]) == (round(LARGEST_CELL * 200 / 203), LARGEST_CELL)


def test_a_large_page_is_small_enough():
    """A thousand noisy pictures and texts, which no PNG makes smaller."""
    text = render_match(page_of(1000, [f"{'word ' * 12}{i}" for i in range(1000)], 128, 512))
    assert len(text.encode()) < 5_000_000
    assert sheet_of(text).format == "JPEG"
    assert sheet_of(render_match(page_of())).format == "PNG"


def test_words_stay_words_and_nothing_is_loaded(path):
    text = path.read_text("utf-8")
    assert "<img src=x" not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"""(?:src|href)=["'](?!data:)|url\(|@import|https?:""", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"captions": ["one"]}, "counts differ"),
        ({"texts": ["one"]}, "counts differ"),
        (
            {"texts": [], "text_embeddings": np.zeros((0, WIDTH), np.float32)},
            "a picture and a text",
        ),
        ({"images": np.zeros((COUNT, 4, 4, 2), np.uint8)}, "2 channels"),
        ({"logit_scale": float("nan")}, "not finite"),
        ({"image_embeddings": np.full((COUNT, WIDTH), np.inf, np.float32)}, "not finite"),
    ],
)
def test_what_cannot_be_shown(page, changed, words):
    with pytest.raises(ValueError, match=words):
        MatchPage(**{**vars(page), **changed})


def test_a_typed_caption_shows_its_nearest_pictures(path, page, data, tmp_path):
    """Case and spaces do not matter; 24 come first, and the rest when asked for."""
    script = 'type("  A photo of TREES "); const first = state();'
    script += 'document.getElementById("more").click(); return [first, state()];'
    first, all_ = act(path, READ + script, tmp_path)
    order, cosine, filled, share = ranking(data, "images", "words", 3)
    assert first["heading"] == "Nearest pictures to “a photo of Trees”"
    assert (first["status"], first["near"], first["invalid"]) == ("", [], "false")
    assert len(first["pictures"]) == 24
    assert first["pictures"] == all_["pictures"][:24]
    seen = all_["pictures"]
    assert [one["index"] for one in seen] == order.tolist()
    np.testing.assert_allclose([one["now"] for one in seen], cosine, atol=6e-5)
    np.testing.assert_allclose([one["filled"] for one in seen], filled, atol=1e-2)
    for one, expected in zip(seen, share, strict=True):
        assert one["share"] == ("<0.1%" if expected < 0.1 else f"{expected:.1f}%")
        assert one["right"] == (page.captions[one["index"]] == TEXTS[3])
    labels = [page.captions[i] or "no caption" for i in order]
    assert [one["label"] for one in seen] == [f"picture {i}: {t}" for i, t in enumerate(labels, 1)]


def test_a_clicked_picture_shows_its_nearest_captions(path, page, data, tmp_path):
    script = """
    type("number 3");
    const seen = [];
    for (const button of [...document.querySelectorAll("#pictures button")].slice(0, 24)) {
      button.click();
      const pen = document.getElementById("portrait").getContext("2d");
      const pixels = [...pen.getImageData(0, 0, pen.canvas.width, pen.canvas.height).data];
      seen.push({ ...state(), clicked: Number(button.dataset.index), pixels });
    }
    document.querySelector("#captions button").click();
    return [seen, state(), document.getElementById("text").value];
    """
    seen, after, text = act(path, READ + script, tmp_path)
    apart = 0
    for stop in seen:
        i = stop["clicked"]
        order, cosine, filled, share = ranking(data, "words", "images", i)
        own = [place for place, j in enumerate(order) if TEXTS[j] == page.captions[i]]
        places = [*range(10), *(place for place in own if place >= 10)]
        apart += len(places) > 10
        assert [one["index"] for one in stop["captions"]] == order[places].tolist()
        assert [one["text"] for one in stop["captions"]] == [TEXTS[j] for j in order[places]]
        np.testing.assert_allclose(
            [float(one["cosine"]) for one in stop["captions"]], cosine[places], atol=6e-4
        )
        np.testing.assert_allclose(
            [one["filled"] for one in stop["captions"]], filled[places], atol=1e-2
        )
        for one, place in zip(stop["captions"], places, strict=True):
            assert one["share"] == ("<0.1%" if share[place] < 0.1 else f"{share[place]:.1f}%")
            words = f"✓ its own, number {place + 1}" if place else "✓ its own"
            assert one["mark"] == (words if place in own else None)
        assert [p["index"] for p in stop["pictures"] if p["pressed"] == "true"] == [i]
        assert stop["own"] == (page.captions[i] or "no caption")
        pixels = np.array(stop["pixels"]).reshape(9, 12, 4)
        np.testing.assert_array_equal(pixels[..., :3], page.images[i])
    assert apart, "some pictures' own captions are not among the first ten"
    assert text == seen[-1]["captions"][0]["text"]
    assert after["heading"] == f"Nearest pictures to “{text}”"


def test_a_beginning_is_enough(path, data, tmp_path):
    script = 'type("a PHOTO of t"); const some = state(); type("un caf"); return [some, state()];'
    some, one = act(path, READ + script, tmp_path)
    assert some["near"] == ["a photo of Trees", "a photo of trains"]
    assert some["status"].startswith("2 captions begin so")
    assert some["heading"] == "Nearest pictures to “a photo of Trees”"
    assert one["near"] == []
    assert one["heading"] == "Nearest pictures to “un café crème”"
    assert one["pictures"][0]["index"] == ranking(data, "images", "words", 5)[0][0]


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("a phtoo of a dgo", "a photo of a dog"),
        ("cup", "a photo of one cup"),  # a part of a caption is spelled like it, too
        ("un cafe creme", "un café crème"),
        ("nunber 11", "number 11"),
        ("<b>trains</b>", "a photo of trains"),
    ],
)
def test_an_unknown_text_says_so(path, tmp_path, text, nearest):
    script = f"""
    type({json.dumps(text)});
    const unknown = state();
    document.querySelector("#near button").click();
    return [unknown, state(), document.getElementById("text").value];
    """
    unknown, picked, chosen = act(path, READ + script, tmp_path)
    assert unknown["status"].startswith(f"“{text}” is not a known caption.")
    assert unknown["invalid"] == "true"
    assert unknown["near"][0] == nearest
    assert len(unknown["near"]) == 6
    assert picked["heading"] == f"Nearest pictures to “{nearest}”"
    assert (picked["near"], picked["invalid"], chosen) == ([], "false", nearest)


def test_markup_in_captions_stays_text(path, tmp_path):
    script = f"""
    type(data.texts[{TEXTS.index(MARKUP)}]);
    document.querySelector("#pictures li:has(.mark) button").click();
    return [state(), document.querySelectorAll("img").length, document.title,
      document.querySelector("h1").textContent, document.querySelector(".subtitle").textContent,
      [...document.querySelectorAll("option")].map(option => option.value)];
    """
    seen, images, *words, options = act(path, READ + script, tmp_path)
    assert seen["heading"] == f"Nearest pictures to “{MARKUP}”"
    assert seen["own"] == MARKUP
    assert MARKUP in [one["text"] for one in seen["captions"]]
    assert words == [MARKUP] * 3
    assert images == 1
    assert options == TEXTS


def test_the_script_reads_all_finite_halves(path, tmp_path):
    """Those below 2**-14, too, which have a form of their own."""
    bits = np.arange(1 << 16, dtype="<u2")
    bits = bits[np.isfinite(bits.view("<f2"))]
    text = base64.b64encode(bits.tobytes()).decode()
    seen = act(path, f"return [...unpacked({json.dumps(text)})];", tmp_path)
    np.testing.assert_array_equal(np.array(seen), bits.view("<f2"))


def test_everything_has_a_name_and_can_be_reached_by_keys(path, tmp_path):
    script = """
    const all = selector => [...document.querySelectorAll(selector)];
    const label = one => one.getAttribute("aria-label");
    const named = one => one.textContent.trim() || label(one) || one.labels?.length;
    const controls = all("button, input").filter(one => one.checkVisibility());
    const first = document.querySelector("#pictures button");
    first.focus();
    return {
      count: controls.length, nameless: controls.filter(one => !named(one)).length,
      skipped: controls.filter(one => one.tabIndex < 0).length,
      focused: document.activeElement === first, meters: all("[role=meter]").every(label),
      portrait: label(document.getElementById("portrait")),
    };
    """
    seen = act(path, script, tmp_path)
    assert seen.pop("count") > 30
    assert seen.pop("portrait")
    assert seen == {"nameless": 0, "skipped": 0, "focused": True, "meters": True}

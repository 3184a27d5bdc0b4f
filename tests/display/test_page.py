"""A page says what it was given, runs none of it, and fetches nothing."""

import base64
import html.parser
import json
import math
import re

import numpy as np
import pytest

from diffjax.display.images import save_grid
from diffjax.display.page import Curve, Finding, Page, Picture, render, save_page


class Parsed(html.parser.HTMLParser):
    """A page's tags, and the text within each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self._open[-1], []).append(data)

    def values(self, attribute):
        return [attrs[attribute] for _, attrs in self.tags if attribute in attrs]

    def shape(self):
        return [(tag, sorted(attrs)) for tag, attrs in self.tags]


def plotted(text):
    """What the page's script is given to plot."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(data)


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    path = tmp_path_factory.mktemp("png") / "grid.png"
    save_grid(path, np.zeros((4, 28, 28, 1), np.uint8))
    return path.read_bytes()


def full(png, word="word"):
    """A page that has `word` wherever words come from outside."""
    return Page(
        title=word,
        subtitle=word,
        facts={word: word},
        grids=[Picture("step 1", png), Picture(word, png)],
        film=[Picture(word, png), Picture(word, png)],
        curves=[Curve(word, [1, 2], [0.5, 0.25])],
        findings=[Finding(word, {word: word}, png)],
        flags=word,
        environment={word: word},
    )


@pytest.mark.parametrize(
    "word",
    ["<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", '\'" onload="x', "&lt;"],
)
def test_words_stay_words(png, word):
    text = render(full(png, word))
    parsed = Parsed(text)
    assert parsed.shape() == Parsed(render(full(png))).shape()
    assert parsed.texts["h1"] == parsed.texts["pre"] == [word]
    assert parsed.values("data-label") == ["step 1", word, word, word]
    assert plotted(text)[0]["name"] == word


def test_nothing_is_loaded(png):
    text = render(full(png))
    parsed = Parsed(text)
    loaded = [
        url for name in ("src", "href", "srcset", "data", "action") for url in parsed.values(name)
    ]
    assert loaded
    assert all(url.startswith("data:") for url in loaded)
    assert not re.search(r"url\(|@import", "".join(parsed.texts["style"]))
    (policy,) = [a["content"] for _, a in parsed.tags if "Policy" in a.get("http-equiv", "")]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_pictures_are_in_the_page_byte_by_byte(png):
    sources = Parsed(render(full(png))).values("src")
    assert [base64.b64decode(s.partition("base64,")[2]) for s in sources] == [png] * 5


def test_numbers_are_plotted_unrounded_and_gaps_are_left():
    values = [0.12345678901234567, math.nan, math.inf, 3e-9]
    (chart,) = plotted(render(Page("run", curves=[Curve("loss", [1, 2, 3, 4], values)])))
    assert chart["steps"] == [1, 2, 3, 4]
    assert chart["values"] == [values[0], None, None, values[3]]


@pytest.mark.parametrize(
    ("values", "positive"), [([1.0, 2.0], True), ([0.0, 2.0], False), ([math.nan], False)]
)
def test_only_what_is_positive_has_a_log_scale(values, positive):
    curve = Curve("loss", list(range(len(values))), values)
    text = render(Page("run", curves=[curve]))
    assert plotted(text)[0]["positive"] is positive
    assert ("log" in Parsed(text).values("class")) is positive


def test_empty_page_says_so():
    text = render(Page("run"))
    parsed = Parsed(text)
    assert "No pictures so far." in parsed.texts["p"]
    assert "No metrics so far." in parsed.texts["p"]
    assert not {"img", "input", "button"} & {tag for tag, _ in parsed.tags}
    assert len(text) < 20_000  # plotly is left out where nothing is plotted
    assert "Curves" in parsed.texts["h2"]
    assert "Curves" not in Parsed(render(Page("grid", curves=None))).texts["h2"]


def test_one_picture_has_no_slider(png):
    tags = [tag for tag, _ in Parsed(render(Page("run", grids=[Picture("step 1", png)]))).tags]
    assert tags.count("img") == 1
    assert "input" not in tags


def test_saved_whole(tmp_path, png):
    save_page(tmp_path / "report.html", full(png, "é"))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text("utf-8") == render(full(png, "é"))

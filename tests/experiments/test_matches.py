"""Reports of how towers match: towers that know the answers, or a part of them, or none."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from diffjax.data.base import ArrayRecords
from diffjax.data.contents import Contents
from diffjax.errors import UserError
from experiments.matches import caption, gallery, paired, recall, zero_shot
from experiments.matches.paired import pair

NAMES = ("cat", "dog", "cup")
WIDTH = 64


class Captioned:
    """Pictures of one colour each, which is number i of caption i % captions and label i % 3."""

    image_shape, num_classes, class_names = (2, 2, 3), len(NAMES), NAMES
    contents = Contents()

    def __init__(self, count, captions, *, text=True, label=True):
        self.count, self.captions, self.text, self.label = count, captions, text, label

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        record = {"image": np.full((2, 2, 3), -1 + 2 * index / 2048, np.float32)}
        if self.text:
            record["text"] = f"caption {index % self.captions}"
        if self.label:
            record["label"] = np.int32(index % len(NAMES))
        return record


class Fake:
    """Towers that read a picture's number from its colour and put it near its caption's vector."""

    name, logit_scale = "fake towers", 10.0

    def __init__(self, captions, noise=0.0, scale=1.0):
        rng = np.random.default_rng(0)
        self.captions, self.scale = captions, scale
        self.vectors = rng.normal(size=(2048, WIDTH))
        self.noise = noise * rng.normal(size=(2048, WIDTH))

    def images(self, images):
        assert images.dtype == np.float32
        index = np.round((images[:, 0, 0, 0] + 1) * 1024).astype(int)
        return (7 * (self.vectors[index % self.captions] + self.noise[index])).astype(np.float32)

    def texts(self, texts):
        assert type(texts) is list
        numbers = [int(re.findall(r"\d+", text)[0]) for text in texts]
        return (self.scale * self.vectors[numbers]).astype(np.float32)


class Same(Fake):
    """Collapsed: whatever it is given lies at one point."""

    def images(self, images):
        return np.ones((len(images), 3), np.float32)

    def texts(self, texts):
        return np.ones((len(texts), 3), np.float32)


class Named(Fake):
    """Axis `label` for a class's name, and a picture of label 2 on the axis of label 1."""

    def images(self, images):
        label = np.round((images[:, 0, 0, 0] + 1) * 1024).astype(int) % len(NAMES)
        return np.eye(3, dtype=np.float32)[np.minimum(label, 1)]

    def texts(self, texts):
        return np.stack([np.eye(3)[[name in text for name in NAMES].index(True)] for text in texts])


def quiet(line):
    """Called with what would be printed."""


def test_pictures_are_paired_with_their_captions(monkeypatch):
    monkeypatch.setattr(paired, "AT_A_TIME", 7)
    towers = Fake(5)
    found = pair(towers, Captioned(23, 5))
    assert found.captions == tuple(f"caption {i}" for i in range(5))
    np.testing.assert_array_equal(found.own, np.arange(23) % 5)
    np.testing.assert_allclose(found.images, found.texts[found.own], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.texts, axis=1), 1)


def test_towers_that_know_find_all_both_ways():
    said = []
    found = recall.report(Fake(150), Captioned(300, 150), 0, said.append)
    assert (found["pictures"], found["captions"], found["candidates"]) == (300, 150, 100)
    for way in recall.TITLES:
        assert {k: of["recall"] for k, of in found[way].items()} == {"1": 1, "5": 1, "10": 1}
        low, high = found[way]["1"]["interval"]
        # As many as captions, not as many as pictures.
        assert low == pytest.approx(stats.binomtest(150, 150).proportion_ci(0.95, "wilson").low)
        assert high == 1
    assert found["geometry"]["alignment"] == pytest.approx(0, abs=1e-6)
    assert found["geometry"]["modality_gap"] == pytest.approx(0, abs=1e-5)
    assert json.loads(json.dumps(found)) == found
    assert said[0].startswith("fake towers: recall among 100 candidates, 300 pictures with 150")
    assert len(said) == 1 + 6 + 6


def test_collapsed_towers_find_nothing():
    """All candidates tie, and ties count against."""
    found = recall.report(Same(30), Captioned(60, 30), 0, quiet)
    assert [found[way][k]["recall"] for way in recall.TITLES for k in ("1", "5", "10")] == [0] * 6


def test_unrelated_embeddings_find_by_chance():
    found = recall.report(Fake(1000, noise=1e4), Captioned(1000, 1000), 0, quiet)
    for way in recall.TITLES:
        for k in (1, 5, 10):
            of = found[way][str(k)]
            assert of["chance"] == k / 100
            hits = round(1000 * of["recall"])
            assert stats.binomtest(hits, 1000, k / 100).pvalue > 1e-3
            assert of["interval"][0] <= of["recall"] <= of["interval"][1]


def test_recall_among_all_is_that_of_the_whole_table():
    """Each caption has one picture, and all are candidates: counted from all cosines at once."""
    towers, records = Fake(60, noise=2.0), Captioned(60, 60)
    found = recall.report(towers, records, 0, quiet)
    assert found["candidates"] == 60
    of = pair(towers, records)
    cosines = of.images @ of.texts.T
    for way, table in (("image_to_text", cosines), ("text_to_image", cosines.T)):
        ranks = (table > np.diag(table)[:, None]).sum(1)
        for k in (1, 5, 10):
            assert found[way][str(k)]["recall"] == pytest.approx((ranks < k).mean())
    assert 0 < found["text_to_image"]["1"]["recall"] < 1


def test_pictures_of_a_caption_are_drawn_evenly():
    own = np.arange(12) % 3
    chosen = np.tile([0, 1, 2], (12, 500))
    chosen[:, 0] = own
    pictures = recall._pictures(own, chosen, 0)
    np.testing.assert_array_equal(pictures[:, 0], np.arange(12))
    np.testing.assert_array_equal(own[pictures], chosen)
    counts = np.bincount(pictures[:, 1:].ravel())
    assert stats.chisquare(counts).pvalue > 1e-3


def test_draws_follow_the_seed():
    towers, records = Fake(120, noise=2.0), Captioned(240, 120)
    first, again, other = (recall.report(towers, records, seed, quiet) for seed in (0, 0, 1))
    assert first == again
    assert first["text_to_image"] != other["text_to_image"]


def test_few_captions_have_few_candidates():
    found = recall.report(Fake(4), Captioned(8, 4), 0, quiet)
    assert (found["candidates"], list(found["image_to_text"])) == (4, ["1"])


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (Captioned(5, 5, text=False), "has no captions"),
        (Captioned(5, 1), "the same caption"),
        (Captioned(0, 1), "no record"),
    ],
)
def test_records_without_what_recall_needs(records, words):
    with pytest.raises(UserError, match=words):
        recall.report(Fake(5), records, 0, quiet)


def test_zero_shot_counts_what_is_taken_for_what():
    said = []
    found = zero_shot.report(Named(1), Captioned(31, 1), ["a {}", "the {}"], said.append)
    assert found["confusion"] == [[11, 0, 0], [0, 10, 0], [0, 10, 0]]
    assert found["accuracy"] == 21 / 31
    expected = stats.binomtest(21, 31).proportion_ci(0.95, "wilson")
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert json.loads(json.dumps(found)) == found
    assert said[0].startswith("fake towers: zero-shot accuracy 67.7% (95%: ")
    assert said[1:] == [
        "cat  100.0% of 11",
        "dog  100.0% of 10",
        "cup    0.0% of 10, 10 taken for dog",
    ]


def test_records_without_what_zero_shot_needs():
    with pytest.raises(UserError, match="has no labels"):
        zero_shot.report(Named(1), Captioned(3, 1, label=False), ["a {}"], quiet)
    with pytest.raises(UserError, match="no place for a name"):
        zero_shot.report(Named(1), Captioned(3, 1), ["a photo"], quiet)
    nameless = ArrayRecords(np.zeros((3, 2, 2, 3), np.uint8), np.arange(3), (2, 2, 3), 3)
    with pytest.raises(UserError, match="fewer than 2 classes"):
        zero_shot.report(Named(1), nameless, ["a {}"], quiet)


def test_best_captions():
    towers, records = Fake(9, scale=3.0), Captioned(9, 9)
    images = np.stack([records[i]["image"] for i in (4, 7)])
    known = [f"caption {i}" for i in (*range(9), 4, 7)]  # some twice
    found = caption.best_captions(towers, images, known, 20)
    of = pair(towers, records)
    for row, i in zip(found, (4, 7), strict=True):
        cosines = of.texts @ of.texts[i]
        assert [match.caption for match in row] == [known[j] for j in np.argsort(-cosines)]
        assert row[0].caption == f"caption {i}"
        assert row[0].cosine == pytest.approx(1)
        shares = np.exp(10 * cosines) / np.exp(10 * cosines).sum()
        np.testing.assert_allclose([match.share for match in row], -np.sort(-shares), rtol=1e-5)
    shorter = caption.best_captions(towers, images, known, 2)
    assert shorter == [row[:2] for row in found]
    with pytest.raises(UserError, match="no caption"):
        caption.best_captions(towers, images, [], 1)
    with pytest.raises(UserError, match="choose 1 or more"):
        caption.best_captions(towers, images, known, 0)


@pytest.mark.parametrize(("most", "indices"), [(4, [0, 3, 6, 9]), (99, range(12))])
def test_the_page_holds_pictures_at_equal_distances(tmp_path, most, indices):
    gallery.write(tmp_path / "match.html", Fake(5), Captioned(12, 5), most)
    text = (tmp_path / "match.html").read_text("utf-8")
    (held,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    data = json.loads(held)
    assert data["captions"] == [f"caption {i % 5}" for i in indices]
    assert data["texts"] == list(dict.fromkeys(data["captions"]))
    assert (data["scale"], data["dimensions"]) == (10, WIDTH)
    assert "What fake towers matches" in text
    with pytest.raises(UserError, match="has no captions"):
        gallery.write(tmp_path / "none.html", Fake(5), Captioned(12, 5, text=False), most)

"""Ranks counted by hand, intervals against SciPy and repeated draws, classes from their names."""

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffjax.errors import UserError
from diffjax.metrics import retrieval
from diffjax.metrics.retrieval import (
    candidates,
    class_embeddings,
    ranks,
    ranks_among,
    recall_at,
    recall_interval,
)

compiled_ranks = jax.jit(ranks)
# Few values, so that many are tied; few shapes, each of which is compiled.
tables = hnp.arrays(
    np.float32,
    st.sampled_from([(1, 1), (1, 7), (6, 1), (8, 5), (4, 8)]),
    elements=st.sampled_from([0, 0.5, 1]),
)


@pytest.mark.parametrize(
    ("similarity", "right", "rank"),
    [
        ([0.9, 0.5, 0.1], [1, 0, 0], 0),
        ([0.9, 0.5, 0.1], [0, 1, 0], 1),
        ([0.9, 0.5, 0.1], [0, 1, 1], 1),  # the best of two
        ([0.9, 0.5, 0.1], [1, 1, 0], 0),  # right ones do not stand in each other's way
        ([0.5, 0.5, 0.5], [0, 1, 0], 2),  # ties count against
        ([0.9, 0.5, 0.1], [0, 0, 0], 3),
        ([np.nan] * 3, [1, 0, 0], 2),
        ([0.9, np.nan, 0.1], [1, 0, 0], 1),
    ],
)
def test_ranks_by_hand(similarity, right, rank):
    found = ranks(np.array([similarity], np.float32), np.array([right], bool))
    assert found.tolist() == [rank]


@given(tables, st.data())
def test_ranks_are_places_of_a_stable_order(similarity, data):
    right = data.draw(hnp.arrays(bool, similarity.shape))
    for row, own, found in zip(similarity, right, compiled_ranks(similarity, right), strict=True):
        # Most similar first, wrong ones first among equals: what lies before the first right one.
        order = sorted(range(len(row)), key=lambda j: (-row[j], own[j]))
        first = next((place for place, j in enumerate(order) if own[j]), len(row))
        assert found == first


def test_recall():
    assert recall_at(np.array([0, 0, 4, 5, 99])) == {1: 0.4, 5: 0.6, 10: 0.8}
    assert recall_at(ranks(np.eye(3), np.eye(3) > 0), ks=(1,)) == {1: 1.0}
    with pytest.raises(ValueError, match="no rows"):
        recall_at(np.zeros(0, int))


@given(st.integers(1, 12), st.data())
def test_candidates_are_distinct_and_own_first(total, data):
    count = data.draw(st.integers(1, total))
    own = data.draw(hnp.arrays(np.int64, st.integers(0, 9), elements=st.integers(0, total - 1)))
    chosen = candidates(own, total, count, 0)
    assert chosen.shape == (len(own), count)
    np.testing.assert_array_equal(chosen[:, 0], own)
    assert all(len(set(row)) == count for row in chosen.tolist())
    assert set(chosen.ravel()) <= set(range(total))


def test_other_candidates_are_drawn_evenly(monkeypatch):
    monkeypatch.setattr(retrieval, "ROWS", 1000)  # in several blocks
    own = np.repeat(3, 7500)
    counts = np.bincount(candidates(own, 6, 3, 0)[:, 1:].ravel(), minlength=6)
    assert counts[3] == 0
    assert stats.chisquare(np.delete(counts, 3)).pvalue > 1e-3
    places = np.bincount(candidates(own, 6, 3, 0)[:, 1], minlength=6)
    assert stats.chisquare(np.delete(places, 3)).pvalue > 1e-3


def test_draws_follow_the_seed():
    own = np.arange(50)
    first, again, other = (candidates(own, 50, 10, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@given(tables, st.data())
def test_ranks_among_all_are_ranks(similarity, data):
    count, total = similarity.shape
    own = data.draw(hnp.arrays(np.int64, count, elements=st.integers(0, total - 1)))
    among = ranks_among(similarity, own, total, 0)
    right = np.eye(total, dtype=bool)[own]
    np.testing.assert_array_equal(among, compiled_ranks(similarity, right))


def test_fewer_candidates_have_fewer_above():
    """Each of the 199 wrong columns above is drawn with chance 99 / 199 or 9 / 199."""
    rng = np.random.default_rng(0)
    similarity, own = rng.normal(size=(400, 200)), rng.integers(0, 200, 400)
    whole = ranks_among(similarity, own, 200, 0)
    for count in (100, 10):
        found = ranks_among(similarity, own, count, 1)
        assert (found <= np.minimum(whole, count - 1)).all()
        assert found.mean() == pytest.approx(whole.mean() * (count - 1) / 199, rel=0.05)


@pytest.mark.parametrize("count", [0, 5])
def test_too_few_captions(count):
    with pytest.raises(UserError, match="4 distinct captions: ask for 1 to 4"):
        ranks_among(np.zeros((2, 4)), np.array([0, 1]), count, 0)


def test_interval_of_captions_that_occur_once_is_wilsons():
    hits = np.arange(50) % 3 == 0
    expected = stats.binomtest(17, 50).proportion_ci(0.95, method="wilson")
    found = recall_interval(hits, np.arange(50)[::-1].copy(), 0)
    np.testing.assert_allclose(found, (expected.low, expected.high))


def test_interval_counts_captions_not_rows():
    """Rows of a caption that all agree are one row: the interval is that of the captions."""
    hits = np.arange(300) % 3 == 0
    found = recall_interval(np.repeat(hits, 5), np.repeat(np.arange(300), 5), 0)
    once = recall_interval(hits, np.arange(300), 0)
    np.testing.assert_allclose(found, once, atol=0.015)
    assert np.diff(recall_interval(np.repeat(hits, 5), np.arange(1500), 0)) < 0.5 * np.diff(found)


def test_interval_holds_the_truth_95_times_of_100():
    rng = np.random.default_rng(0)
    held, draws = 0, 300
    captions = np.repeat(np.arange(80), 4)
    for seed in range(draws):
        hits = rng.random(320) < np.repeat(rng.beta(2, 2, 80), 4)  # 0.5 on average
        low, high = recall_interval(hits, captions, seed)
        held += low <= 0.5 <= high
    assert stats.binomtest(held, draws, 0.95).pvalue > 1e-3


@pytest.mark.parametrize("hit", [False, True])
def test_interval_of_equal_hits_is_wilsons_of_the_captions(hit):
    expected = stats.binomtest(6 * hit, 6).proportion_ci(0.95, method="wilson")
    found = recall_interval(np.full(12, hit), np.arange(12) % 6, 0)
    np.testing.assert_allclose(found, (expected.low, expected.high), atol=1e-15)


def test_one_caption_says_nothing_of_others():
    assert recall_interval(np.array([True, False]), np.array([7, 7]), 0) == (0, 1)


VECTORS = {
    "a red cup": [2.0, 0.0],
    "{cup} in red": [0.0, 0.5],
    "a red hat": [0.0, -1.0],
    "{hat} in red": [0.0, -3.0],
}


def test_classes_are_means_of_unit_vectors():
    def encode(texts):
        return np.array([VECTORS[text] for text in texts], np.float32)

    found = class_embeddings(encode, ["cup", "hat"], ["a red {}", "{{}} in red"])
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0, -1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("templates", "words"), [(["{}", "a photo"], "'a photo'"), ([], "no temp")]
)
def test_templates_that_are_none(templates, words):
    with pytest.raises(UserError, match=words):
        class_embeddings(lambda texts: np.zeros((len(texts), 2), np.float32), ["cup"], templates)

"""CLIP scores of embeddings whose cosines are known."""

import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.metrics.clip_score import clip_score, clip_scores, matched_among
from diffjax.metrics.intervals import wilson


def at_cosines(cosines):
    """Pairs of vectors of any length with these cosines, in 5 dimensions."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(len(cosines), 5, 2)))[0]
    angle = np.arccos(cosines)[:, None]
    texts = basis[..., 0] * rng.uniform(0.1, 9, (len(cosines), 1))
    images = np.cos(angle) * basis[..., 0] + np.sin(angle) * basis[..., 1]
    return (images * rng.uniform(0.1, 9, (len(cosines), 1))).astype(np.float32), texts.astype(
        np.float32
    )


def test_the_score_is_100_times_the_cosine_and_never_negative():
    cosines = np.asarray([0.3, -0.5, 1.0, 0.0, 0.75])
    images, texts = at_cosines(cosines)
    expected = np.asarray([30, 0, 100, 0, 75])
    np.testing.assert_allclose(clip_scores(images, texts), expected, atol=1e-3)
    found = clip_score(images, texts)
    assert found.value == pytest.approx(41, abs=1e-3)
    assert 0 <= found.interval.low < found.value < found.interval.high <= 100


def test_the_interval_is_that_of_a_mean():
    """As wide as the normal one of as many pairs."""
    cosines = np.clip(np.random.default_rng(1).normal(0.3, 0.05, 400), -1, 1)
    found = clip_score(*at_cosines(cosines), seed=3)
    expected = 2 * 1.96 * 100 * cosines.std() / np.sqrt(400)
    assert found.interval.high - found.interval.low == pytest.approx(expected, rel=0.15)
    assert found.value == pytest.approx(100 * cosines.mean(), abs=1e-3)
    with pytest.raises(ValueError, match="2 pairs"):
        clip_score(*at_cosines(np.asarray([0.5])))


def test_matched_among_is_certain_reversed_and_by_chance():
    texts = np.eye(30, dtype=np.float32)
    own = np.arange(200) % 30
    right = matched_among(7 * texts[own], texts, own, count=20)
    assert (right.value, right.chance, right.interval) == (1.0, 0.05, wilson(200, 200))
    assert matched_among(-texts[own], texts, own, count=20).value == 0
    assert matched_among(np.ones_like(texts), texts, own[:30], count=20).value == 0, "ties"
    noise = np.random.default_rng(0).normal(size=(4000, 30)).astype(np.float32)
    guessed = matched_among(noise, texts, np.arange(4000) % 30, count=20)
    assert guessed.interval.low < 0.05 < guessed.interval.high
    assert guessed == matched_among(noise, texts, np.arange(4000) % 30, count=20)
    with pytest.raises(UserError, match="31 candidates"):
        matched_among(texts, texts, own[:30], count=31)

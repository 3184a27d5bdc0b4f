"""Overlap of class maps, counted by hand and by SciPy."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import distance

from diffjax.metrics.segmentation import confusion, dice, iou, threshold_iou

MAPS = hnp.arrays(np.int32, (2, 6, 5), elements=st.integers(0, 3))
TRUTH = np.array([[0, 0, 1, 1], [0, 2, 2, 1]])
GUESS = np.array([[0, 1, 1, 1], [0, 0, 2, 2]])


def test_counted_by_hand():
    counts = confusion(TRUTH, GUESS, 3)
    np.testing.assert_array_equal(counts, [[2, 1, 0], [0, 2, 1], [1, 0, 1]])
    np.testing.assert_allclose(iou(counts), [2 / 4, 2 / 4, 1 / 3])
    np.testing.assert_allclose(dice(counts), [4 / 6, 4 / 6, 2 / 4])


@given(MAPS)
def test_scipy_finds_the_same(maps):
    """Of each class as a set of pixels."""
    counts = confusion(*maps, 4)
    for k, (a, b) in enumerate(zip(iou(counts), dice(counts), strict=True)):
        true, guessed = (map.ravel() == k for map in maps)
        if not (true | guessed).any():
            assert np.isnan(a)
            assert np.isnan(b)
            continue
        assert a == pytest.approx(1 - distance.jaccard(true, guessed), abs=1e-12)
        assert b == pytest.approx(1 - distance.dice(true, guessed), abs=1e-12)


@given(MAPS)
def test_dice_follows_from_iou(maps):
    overlap = iou(confusion(*maps, 4))
    np.testing.assert_allclose(dice(confusion(*maps, 4)), 2 * overlap / (1 + overlap), rtol=1e-12)


def test_at_their_ends():
    np.testing.assert_array_equal(iou(confusion(TRUTH, TRUTH, 3)), 1)
    np.testing.assert_array_equal(dice(confusion(TRUTH, (TRUTH + 1) % 3, 3)), 0)


@given(MAPS)
def test_counts_of_parts_add_up(maps):
    parts = [confusion(*maps[:, rows], 4) for rows in (slice(0, 2), slice(2, 6))]
    np.testing.assert_array_equal(sum(parts), confusion(*maps, 4))
    assert sum(parts).sum() == 30


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_that_there_is_not(wrong):
    with pytest.raises(ValueError, match="where there are 3"):
        confusion(TRUTH, np.full_like(TRUTH, wrong), 3)


@given(hnp.arrays(np.int32, 30, elements=st.integers(-4, 3)), hnp.arrays(np.bool_, 30))
def test_the_best_threshold_of_all(quarters, foreground):
    """Tried one by one."""
    image = quarters / 4 + 0.1
    every = [side * image > side * t for t in np.arange(-1.3, 1.3, 0.25) for side in (1, -1)]
    tried = [(part & foreground).sum() / max(1, (part | foreground).sum()) for part in every]
    assert threshold_iou(image, foreground) == pytest.approx(max(tried), abs=1e-12)

"""The checkerboard measure, where it is known."""

import einops
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.metrics.checkerboard import checkerboard_energy

ROWS, COLUMNS = np.indices((24, 36))
BOARD = (-1.0) ** (ROWS + COLUMNS)
IMAGES = hnp.arrays(np.float64, (2, 12, 24, 2), elements=st.floats(-1, 1))


def energy(image, stride=2):
    return checkerboard_energy(image[None, ..., None], stride)[0]


def test_a_constant_has_none():
    assert energy(np.full((8, 8), 0.7)) == 0
    assert energy(np.zeros((8, 8))) == 0
    assert energy(np.full((9, 9), np.float32(0.1)), 3) == 0


def test_what_repeats_from_block_to_block_is_all_of_it():
    assert energy(BOARD) == pytest.approx(1, abs=1e-12)
    assert energy((-1.0) ** ROWS) == pytest.approx(1, abs=1e-12)
    block = np.random.default_rng(0).normal(size=(4, 4))
    assert energy(np.tile(block, (6, 9)), 4) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("period", "share"), [(4, 0), (12, 0), (2, 1)])
def test_waves_of_other_periods_do_not_count(period, share):
    assert energy(np.cos(2 * np.pi * COLUMNS / period)) == pytest.approx(share, abs=1e-12)


@given(st.floats(0.01, 10), st.floats(0.01, 10))
def test_the_share_of_a_mixture(a, b):
    """Variances a² of the checkerboard and b² / 2 of a wave."""
    image = a * BOARD + b * np.cos(2 * np.pi * (COLUMNS / 12 + ROWS / 8))
    assert energy(image) == pytest.approx(a**2 / (a**2 + b**2 / 2), rel=1e-9)


@given(IMAGES, st.floats(-5, 5), st.floats(0.1, 10), st.sampled_from([2, 3, 4, 6]))
def test_neither_brightness_nor_contrast_count(images, brightness, contrast, stride):
    changed = contrast * images + brightness
    expected = checkerboard_energy(images, stride)
    if (images.std((1, 2)).max(-1) > 1e-3).all():
        np.testing.assert_allclose(checkerboard_energy(changed, stride), expected, atol=1e-9)


@given(IMAGES, st.sampled_from([2, 3, 4]))
def test_it_is_the_variance_that_the_place_in_a_block_explains(images, stride):
    """Parseval's theorem: no spectrum is needed."""
    if (images.std((1, 2)).max(-1) < 1e-3).any():
        return
    blocks = einops.rearrange(images, "n (h p) (w q) c -> n c (p q) (h w)", p=stride, q=stride)
    explained = blocks.mean(-1).var(-1).sum(-1)
    total = blocks.reshape(*blocks.shape[:2], -1).var(-1).sum(-1)
    np.testing.assert_allclose(
        checkerboard_energy(images, stride), explained / total, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("stride", [2, 4])
def test_of_white_noise(stride):
    noise = np.random.default_rng(0).normal(size=(4000, 8, 12, 1))
    expected = (stride**2 - 1) / (8 * 12 - 1)
    found = checkerboard_energy(noise, stride)
    assert abs(found.mean() - expected) < 5 * found.std() / np.sqrt(4000)


def test_an_image_alone_and_among_others():
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 2))
    alone = [checkerboard_energy(image[None])[0] for image in images]
    np.testing.assert_allclose(checkerboard_energy(images), alone, rtol=1e-12)


def test_what_is_past_whole_blocks_is_left_out():
    noise = np.random.default_rng(0).normal(size=(1, 8, 12, 1))
    padded = np.pad(noise, ((0, 0), (0, 2), (0, 1), (0, 0)), constant_values=9)
    assert checkerboard_energy(padded, 4) != pytest.approx(checkerboard_energy(padded, 2))
    padded = padded[:, :-1]
    np.testing.assert_allclose(checkerboard_energy(padded, 4), checkerboard_energy(noise, 4))


@pytest.mark.parametrize(
    ("shape", "stride", "message"),
    [((4, 4), 1, "2 pixels or more"), ((4, 7), 4, "fewer than two blocks of 4")],
)
def test_what_has_no_blocks(shape, stride, message):
    with pytest.raises(ValueError, match=message):
        energy(np.zeros(shape), stride)


def test_what_is_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        energy(np.where(BOARD > 0, np.nan, 0.0))

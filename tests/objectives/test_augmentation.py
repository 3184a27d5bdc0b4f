"""What augmentation may do to images and texts, by closed form, and what it may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.objectives.augmentation import Augmentation
from diffjax.randomness import sample_keys

KEYS = sample_keys(jax.random.key(0), 0, 400)
RAMP = np.broadcast_to(np.linspace(-1, 1, 9, dtype=np.float32)[:, None, None], (9, 9, 3))
IMAGES = jnp.broadcast_to(RAMP, (400, 9, 9, 3))
END, PAD = 9, 0


def test_nothing_is_changed_by_default():
    change = Augmentation()
    assert change.images(KEYS, IMAGES) is IMAGES
    ids = jnp.ones((400, 4), jnp.int32)
    assert change.texts(KEYS, ids, END, PAD) is ids


def test_a_shift_moves_a_ramp_by_a_constant_and_repeats_its_edge():
    out = np.asarray(jax.jit(Augmentation(shift=0.2).images)(KEYS, IMAGES))[:, :, 0, 0]
    moved = out[:, 4]  # the middle, where the ramp had 0 and rises by 1/4 per pixel
    assert np.abs(moved).max() <= 0.2 * 9 / 4 + 1e-6
    assert moved.min() < -0.4 < 0.4 < moved.max()
    wanted = np.clip(np.arange(9) / 4 - 1 + moved[:, None], -1, 1)
    np.testing.assert_allclose(out, wanted, atol=1e-6)


def test_a_zoom_makes_a_ramp_steeper_or_flatter_about_the_middle():
    out = np.asarray(jax.jit(Augmentation(zoom=1.0).images)(KEYS, IMAGES))[:, :, 0, 0]
    np.testing.assert_allclose(out[:, 4], 0, atol=1e-6)
    slopes = (out[:, 5] - out[:, 3]) * 2  # 1 where the ramp is as it was
    assert 0.5 <= slopes.min() < 0.55
    assert 1.9 < slopes.max() <= 2
    assert 0.4 < (slopes < 1).mean() < 0.6  # as often shrunk as enlarged


def test_half_are_turned():
    across = jnp.swapaxes(IMAGES, 1, 2)
    out = np.asarray(Augmentation(flip=True).images(KEYS, across))
    turned = [np.array_equal(image, across[0, :, ::-1]) for image in out]
    kept = [np.array_equal(image, across[0]) for image in out]
    assert all(a != b for a, b in zip(turned, kept, strict=True))
    assert 0.4 < np.mean(turned) < 0.6


def test_colours_of_a_grey_image_stay_grey_and_its_mean_moves_by_the_brightness():
    out = np.asarray(Augmentation(colour=0.5).images(KEYS, IMAGES))
    np.testing.assert_allclose(out, out[..., :1].repeat(3, -1), atol=1e-6)
    means = out.mean((1, 2, 3))
    assert -0.5 <= means.min() < -0.45
    assert 0.45 < means.max() <= 0.5
    spread = out.std((1, 2, 3)) / RAMP.std()
    assert 0.5 <= spread.min() < 0.55
    assert 1.45 < spread.max() <= 1.5


def test_words_are_left_out_and_the_rest_moves_up():
    row = [8, 3, 4, 5, END, END, END]
    ids = jnp.tile(jnp.asarray(row, jnp.int32), (400, 1))
    out = np.asarray(Augmentation(words=0.5).texts(KEYS, ids, END, PAD))
    seen = set()
    for found in out.tolist():
        assert found[0] == 8
        words = found[1 : found.index(END)]
        assert words == [token for token in (3, 4, 5) if token in words]
        assert found == [8, *words, END, END, END] + [PAD] * (3 - len(words))
        seen.add(tuple(words))
    assert len(seen) == 8
    assert 0.45 < np.mean([len(found) for found in seen]) / 3 < 0.55


def test_each_sample_is_changed_by_its_own_key():
    change = Augmentation(shift=0.2, zoom=0.3, colour=0.2)
    whole = change.images(KEYS, IMAGES)
    alone = change.images(KEYS[7:9], IMAGES[7:9])
    np.testing.assert_allclose(whole[7:9], alone, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"shift": -0.1}, {"shift": 2.0}, {"zoom": -1.0}, {"colour": 1.5}, {"words": 1.0}]
)
def test_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name}="):
        Augmentation(**options)

"""Images drawn of smaller ones, tile by tile and together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from upscalers import doubling

from diffjax.conditions.label import Label
from diffjax.data.base import ArrayRecords
from diffjax.errors import UserError
from diffjax.generate import generate, make_draw, times_of
from diffjax.randomness import sample_keys
from diffjax.runs import trained_components
from diffjax.samplers.ddim import DDIM
from diffjax.tasks.base import Asked, shapes
from diffjax.tasks.upscaling import cropped, middles

KEY = jax.random.key(0)
SMALL = np.random.default_rng(0).uniform(-1, 1, (3, 6, 10, 1)).astype(np.float32)


TASK = doubling(8)


@pytest.fixture(scope="module")
def components():
    """A network of random weights that draws 8x8 of 4x4."""
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes(TASK, {})
    )
    return trained_components(TASK, params)


def drawn(components, small, **options):
    asked = Asked(**{"labels": small, "steps": 3, **options})
    return np.asarray(TASK.sample(components, KEY, asked).images)


def test_tiles_are_cropped_anywhere_by_their_own_keys():
    images = jnp.tile(jnp.arange(30.0).reshape(1, 5, 6, 1), (200, 1, 1, 1))
    keys = sample_keys(KEY, 0, 200)
    found = np.asarray(cropped(keys, images, (3, 4, 1)))
    first = found[:, :1, :1]
    offsets = (np.arange(3)[:, None] * 6 + np.arange(4))[None, ..., None]
    np.testing.assert_array_equal(found, first + offsets)
    assert set(first.ravel()) == {6 * row + column for row in range(3) for column in range(3)}
    np.testing.assert_array_equal(cropped(keys[7:8], images[:1], (3, 4, 1))[0], found[7])


def test_middles_of_records():
    pixels = np.arange(4 * 30, dtype=np.uint8).reshape(4, 5, 6, 1)
    records = ArrayRecords(pixels, np.zeros(4, int), (5, 6, 1), 1)
    found = middles(records, 2, (3, 4, 1))
    np.testing.assert_allclose(found, pixels[[0, 2], 1:4, 1:5] / 127.5 - 1, atol=1e-6)


def test_one_tile_is_a_sample_of_the_network(components):
    params, small = components["denoiser"].params, SMALL[:, :4, :4]
    found = drawn(components, small)
    times = times_of(TASK.process, params, DDIM().spacing, 3)
    draw = make_draw(TASK.model, TASK.process, DDIM(), TASK.shape)
    wanted, _ = generate(draw, params, KEY, 3, 3, times, TASK.condition.asked(small, 3))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_larger_images_depend_on_neither_batches_nor_tiles_at_a_time(components):
    found = drawn(components, SMALL)
    assert found.shape == (3, 12, 20, 1)
    np.testing.assert_allclose(drawn(components, SMALL, batch_size=2), found, atol=1e-4)
    other = drawn(components, SMALL[::-1])
    assert np.abs(other - found)[[0, 2]].max() > 0.05


def test_a_tile_is_drawn_of_its_own_part_of_the_smaller_image(components):
    """In one step a corner pixel reaches the corner's tile, and no other pixel."""
    other = SMALL.copy()
    other[:, 0, 9] *= -1
    moved = drawn(components, SMALL, steps=1) != drawn(components, other, steps=1)
    assert moved[:, :8, 12:].any((1, 2, 3)).all()
    moved[:, :8, 12:] = False
    assert not moved.any()


def test_guidance_is_refused(components):
    with pytest.raises(UserError, match="an upscaler is not guided"):
        drawn(components, SMALL, guidance=2.0, negative=SMALL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": Label(3)}, "told a smaller image"),
        ({"drop": 0.1}, "choose cond_drop=0"),
        ({"image_shape": (8, 12, 1)}, "are no squares 2 times as large"),
        ({"image_shape": (12, 12, 1)}, "are no squares 2 times as large"),
    ],
)
def test_refused(options, message):
    if "drop" in options:
        options = {"condition": dataclasses.replace(TASK.condition, **options)}
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TASK, **options)

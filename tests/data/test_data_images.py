"""Cropping, resizing and scaling, against what a picture must look like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffjax.data import images

sides = st.integers(1, 80)
sizes = st.integers(1, 64)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from([1, 2, 3, 4]), st.none() | sizes, st.integers(0, 2**32 - 1))
def test_any_size(height, width, channels, image_size, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    form = images.shape(pixels.shape, image_size)
    image = images.from_array(pixels, form)
    assert form[2] == {1: 1, 2: 1, 3: 3, 4: 3}[channels]
    assert form[:2] == ((height, width) if image_size is None else (image_size, image_size))
    assert image.shape == form
    assert image.dtype == np.float32
    assert abs(image).max() <= 1


@settings(max_examples=60, deadline=None)
@given(sides, sides, sizes, st.tuples(*[st.integers(0, 255)] * 3))
def test_constant_stays_constant(height, width, image_size, colour):
    pixels = np.full((height, width, 3), colour, np.uint8)
    image = images.from_array(pixels, (image_size, image_size, 3))
    expected = np.array(colour) / 127.5 - 1
    np.testing.assert_allclose(image, np.broadcast_to(expected, image.shape), atol=1e-6)


def test_scale_is_exact():
    image = images.from_array(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), (16, 16, 1))
    assert image[0, 0, 0] == -1
    assert image[-1, -1, 0] == 1
    np.testing.assert_allclose(np.diff(image.ravel()), 1 / 127.5, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(20, 50), (50, 20)])
def test_crops_the_centre(height, width):
    """White in the centred square and black beside it: the filter lets little of that in."""
    pixels = np.zeros((height, width, 1), np.uint8)
    top, left = (height - 20) // 2, (width - 20) // 2
    pixels[top : top + 20, left : left + 20] = 255
    image = images.from_array(pixels, (5, 5, 1))
    assert image.min() > 0.8
    assert image[2, 2, 0] > 0.95


def test_shrinks_with_antialiasing():
    """A checkerboard of single pixels becomes grey."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None]
    assert abs(images.from_array(board, (8, 8, 1))).max() < 0.05


def test_keeps_which_way_is_up():
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20, :, 0] = pixels[:, :20, 1] = 255
    image = images.from_array(pixels, (2, 2, 3))
    np.testing.assert_allclose(image[..., 0], [[1, 1], [-1, -1]], atol=0.2)
    np.testing.assert_allclose(image[..., 1], [[1, -1], [1, -1]], atol=0.2)


PICTURES = {  # name: (picture of 2x2, its value in [0, 255], grey)
    "bilevel": (Image.new("1", (2, 2), 1), 255, True),
    "16 bits": (Image.fromarray(np.full((2, 2), 0x80FF, np.uint16)), 128, True),
    "16 bits, big end first": (Image.fromarray(np.full((2, 2), 0x80FF, ">u2")), 128, True),
    "grey, clear": (Image.new("LA", (2, 2), (10, 0)), 255, True),
    "grey, half clear": (Image.new("LA", (2, 2), (0, 127)), 128, True),
    "grey, opaque": (Image.new("LA", (2, 2), (77, 255)), 77, True),
    "colour, clear": (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), 255, False),
    "colour, opaque": (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), (10, 20, 30), False),
    "ink": (Image.new("CMYK", (2, 2), (255, 0, 0, 0)), (0, 255, 255), False),
    "luminance": (Image.new("RGB", (2, 2), (255, 0, 0)).convert("YCbCr"), (254, 0, 0), False),
    "palette": (Image.new("RGB", (2, 2), (9, 99, 199)).quantize(2), (9, 99, 199), False),
}


@pytest.mark.parametrize("name", PICTURES)
def test_modes(name):
    picture, value, grey = PICTURES[name]
    assert images.is_grey(picture) == grey
    for channels in (1, 3) if grey else (3,):
        image = images.from_image(picture, (2, 2, channels))
        wanted = np.broadcast_to(np.array(value) / 127.5 - 1, (2, 2, channels))
        np.testing.assert_allclose(image, wanted, atol=1e-6)


def test_clear_palette_entry_is_white():
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([10, 20, 30])
    picture.info["transparency"] = 0
    assert (images.from_image(picture, (2, 2, 3)) == 1).all()


def test_to_uint8_spans_and_clips():
    bytes_ = images.to_uint8(np.array([-2, -1, 0, 0.5, 1, 2], np.float32))
    np.testing.assert_array_equal(bytes_, [0, 0, 128, 191, 255, 255])


@given(st.integers(0, 255))
def test_bytes_survive_the_round_trip(value):
    assert int(images.to_uint8(np.float32(value / 127.5 - 1)[None])[0]) == value

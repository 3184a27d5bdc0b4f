"""Grids and films hold every image, in place and unharmed."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffjax.display.images import grid, read_film, save_film, save_grid


@given(st.integers(1, 20), st.sampled_from([(7, 5), (28, 28), (80, 60)]), st.sampled_from([1, 3]))
def test_every_image_stands_whole_in_the_grid(count, size, channels):
    images = np.random.default_rng(count).integers(0, 255, (count, *size, channels), np.uint8)
    sheet = np.asarray(grid(images)).reshape(*grid(images).size[::-1], channels)
    columns = int(np.ceil(np.sqrt(count)))
    zoom = max(1, 56 // max(size))
    height, width = size[0] * zoom + 2, size[1] * zoom + 2
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        cell = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
        np.testing.assert_array_equal(cell[1:-1:zoom, 1:-1:zoom], image)


@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_read_back(tmp_path, channels):
    film = np.random.default_rng(0).integers(0, 255, (5, 4, 28, 28, channels), np.uint8)
    save_grid(tmp_path / "grid.png", film[0])
    save_film(tmp_path / "film.gif", film)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (2 * 58, 2 * 58)
    with Image.open(tmp_path / "film.gif") as picture:
        assert picture.n_frames == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.gif", "grid.png"]


def test_frames_of_a_film_are_read_in_order(tmp_path):
    film = np.random.default_rng(0).integers(0, 255, (5, 4, 28, 28, 1), np.uint8)
    save_film(tmp_path / "film.gif", film)
    frames = [np.asarray(Image.open(io.BytesIO(png))) for png in read_film(tmp_path / "film.gif")]
    np.testing.assert_array_equal(frames, [np.asarray(grid(frame)) for frame in film])

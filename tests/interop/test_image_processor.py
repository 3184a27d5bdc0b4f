"""CLIP's preprocessing against its definition; tests/parity compares it with transformers."""

import json

import numpy as np
import pytest
from PIL import Image

import diffjax as dj
from diffjax.data.clip_images import MEAN, STD, ImageProcessor


def normalised(pixels):
    return (pixels / 255 - np.array(MEAN)) / np.array(STD)


def test_a_picture_of_the_right_size_is_normalised_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    found = dj.load_image_processor()(pixels)
    assert (found.shape, found.dtype) == ((2, 224, 224, 3), np.float32)
    np.testing.assert_allclose(found, normalised(pixels), atol=1e-5)


@pytest.mark.parametrize(("shape", "size"), [((50, 21), (23, 10)), ((21, 50), (10, 23))])
def test_the_shorter_edge_is_resized_and_the_centre_cropped(shape, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = ImageProcessor(edge=10, crop=(10, 9), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))(
        [pixels]
    )[0]
    resized = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    top, left = (size[0] - 10) // 2, (size[1] - 9) // 2  # 6 of 13, and 0 of 1, rounded down
    np.testing.assert_allclose(found, resized[top : top + 10, left : left + 9] / 255, atol=1e-6)


def test_all_kinds_of_pictures():
    white = normalised(np.full((224, 224, 3), 255))
    clear = Image.new("RGBA", (5, 5), (255, 0, 0, 0))
    grey = np.full((9, 7), 255, np.uint8)
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    one_bit = Image.new("1", (3, 3), 1)
    pictures = [clear, grey, grey[..., None], deep, one_bit]
    for image in dj.load_image_processor()(pictures):
        np.testing.assert_allclose(image, white, atol=1e-5)
    assert dj.load_image_processor()([]).shape == (0, 224, 224, 3)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "an array of float32 .* is no picture: give uint8"),
        (np.zeros((4, 4, 5), np.uint8), "is no picture"),
        (np.zeros(4, np.uint8), "is no picture"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        (np.zeros((1, 2000, 3), np.uint8), "would be resized to 448000x224: crop it first"),
    ],
)
def test_what_is_no_picture(picture, message):
    with pytest.raises(dj.UserError, match=message):
        dj.load_image_processor()([picture])


def saved(folder, **options):
    (folder / "preprocessor_config.json").write_text(json.dumps(options))
    return folder


def test_a_folder_of_2022_and_one_of_today(tmp_path):
    numbers = {"image_mean": [0.5, 0.4, 0.3], "image_std": [1, 0.5, 0.25], "resample": 2}
    steps = {"do_resize": True, "do_center_crop": True, "do_normalize": True}
    old = dj.load_image_processor(saved(tmp_path, size=60, crop_size=50, **numbers, **steps))
    size = {"size": {"shortest_edge": 60}, "crop_size": {"height": 50, "width": 50}}
    new = dj.load_image_processor(saved(tmp_path, **size, **numbers, rescale_factor=1 / 255))
    expected = ImageProcessor(
        60, (50, 50), (0.5, 0.4, 0.3), (1.0, 0.5, 0.25), Image.Resampling.BILINEAR
    )
    assert old == new == expected
    assert dj.load_image_processor(saved(tmp_path)) == ImageProcessor()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_resize": False}, "do_resize=False is not supported"),
        ({"rescale_factor": 1.0}, "rescale_factor=1.0 is not supported"),
        ({"size": {"height": 224, "width": 224}}, "size has "),
        ({"size": {"shortest_edge": 2**20}}, "size has 1048576"),
        ({"size": "224"}, "size has '224'"),
        ({"crop_size": {"height": 224}}, "crop_size has None"),
        ({"crop_size": 300}, r"a crop of \(300, 300\) does not fit a shorter edge of 224"),
        ({"image_mean": [0.5]}, "image_mean=.* must be three numbers"),
        ({"image_std": [1, 0, 1]}, "std positive"),
        ({"resample": 9}, "resample=9 is no filter"),
    ],
)
def test_refused_in_one_line(options, message, tmp_path):
    with pytest.raises(dj.UserError, match=message) as raised:
        dj.load_image_processor(saved(tmp_path, **options))
    assert "preprocessor_config.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_file_damaged_json_and_a_pipeline(tmp_path):
    with pytest.raises(dj.UserError, match="cannot read"):
        dj.load_image_processor(tmp_path)
    (tmp_path / "feature_extractor").mkdir()
    saved(tmp_path / "feature_extractor")
    with pytest.raises(dj.UserError, match=r"is a whole pipeline: load .*feature_extractor"):
        dj.load_image_processor(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(dj.UserError, match="is not JSON"):
        dj.load_image_processor(tmp_path)

"""Composites: their maps are exact, and neither brightness nor a threshold gives them away."""

import dataclasses

import numpy as np
import pytest
from written_data import write_folder, write_mnist

from diffjax.data import epoch
from diffjax.data.composites import Composites, _CompositeRecords
from diffjax.data.contents import Contents
from diffjax.errors import UserError
from diffjax.metrics.segmentation import threshold_iou


@pytest.fixture(scope="module")
def held_out():
    records = Composites().open("test", None)
    return next(epoch(records, len(records)))


@dataclasses.dataclass(frozen=True)
class Discs:
    """Discs of 97 pixels, of one brightness, on black; number i is of class i."""

    brightness: float
    image_shape: tuple = (14, 14, 1)
    num_classes: int = 4
    class_names: tuple = ()
    contents: Contents = Contents()  # noqa: RUF009 - frozen

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows, columns = np.indices((14, 14)) - 6
        disc = rows**2 + columns**2 < 31
        image = np.where(disc, self.brightness, -1).astype(np.float32)[..., None]
        return {"image": image, "label": np.int32(index)}


def test_the_mask_is_where_the_thing_makes_a_difference():
    """Two sets that differ in the brightness of things alone."""
    bright, dim = (_CompositeRecords(Discs(b), (24, 24, 1), (7, 0)) for b in (1.0, 0.0))
    for index in range(4):
        a, b = bright[index], dim[index]
        np.testing.assert_array_equal(a["mask"], b["mask"])
        differ = (a["image"] != b["image"])[..., 0]
        assert not differ[a["mask"] == 0].any()
        clipped = (abs(a["image"][..., 0]) == 1) & (abs(b["image"][..., 0]) == 1)
        assert (differ | clipped)[a["mask"] > 0].all()


def test_a_thing_in_front_is_whole():
    """Another behind it adds to its class at most what it has itself."""
    records = _CompositeRecords(Discs(1.0), (24, 24, 1), (0, 0))
    sizes = [int((records[i]["mask"] == 1 + i).sum()) for i in range(4)]
    assert all(97 <= size <= 2 * 97 for size in sizes)
    assert 97 in sizes


def test_all_classes_and_one_or_two_things(held_out):
    assert set(np.unique(held_out["mask"])) == set(range(11))
    assert held_out["mask"].shape == (500, 48, 48)
    classes = [set(np.unique(mask)) - {0} for mask in held_out["mask"]]
    for own, label in zip(classes, held_out["label"], strict=True):
        assert 1 + label in own
    # Half have a second; a tenth of these are of the same class, some are hidden.
    assert 0.35 < np.mean([len(own) == 2 for own in classes]) < 0.5
    assert {len(own) for own in classes} == {1, 2}


def test_brightness_tells_nothing(held_out):
    images, things = held_out["image"][..., 0], held_out["mask"] > 0
    brighter = [image[thing].mean() > image[~thing].mean()
                for image, thing in zip(images, things, strict=True)]  # fmt: skip
    assert 0.3 < np.mean(brighter) < 0.7
    everything = things.mean()  # the IoU of calling every pixel a thing
    assert threshold_iou(images, things) < everything + 0.05 < 0.5


def test_the_seed_makes_other_pictures_of_the_same_things():
    first, other = (Composites(seed=seed).open("train", None)[11] for seed in (0, 1))
    assert first["label"] == other["label"]
    assert (first["mask"] != other["mask"]).any()
    assert (first["image"] != other["image"]).mean() > 0.9


def test_sizes():
    for size, expected in ((None, 48), (32, 32), (17, 17)):
        record = Composites().open("train", size)[0]
        assert record["image"].shape == (expected, expected, 1)
        assert record["mask"].shape == (expected, expected)
        assert record["mask"].dtype == np.int32
        assert record["mask"].any()


def test_a_set_that_there_is_not():
    with pytest.raises(UserError, match="no 'nothing' in data"):
        Composites(of="nothing").open("train", None)


def test_a_set_without_labels(tmp_path):
    (tmp_path / "flat").mkdir()
    for i, file in enumerate(write_folder(tmp_path / "classes").rglob("*.png")):
        file.rename(tmp_path / "flat" / f"{i}.png")
    with pytest.raises(UserError, match="has no labels"):
        Composites(of=f"folder(path={str(tmp_path / 'flat')!r})").open("train", None)


def test_a_seed_out_of_range():
    with pytest.raises(UserError, match="seed must be from 0"):
        Composites(seed=-1)


def test_things_that_are_not_on_black(tmp_path):
    folder = write_mnist(tmp_path / "idx")
    with pytest.raises(UserError, match="are black, where things on black"):
        Composites(of=f"idx(path={str(folder)!r})").open("train", None)

"""What every data set keeps, whichever it is."""

import numpy as np
import pytest

import diffjax.data
from diffjax import spec
from diffjax.data import Dataset, Records, batches, epoch
from diffjax.data.contents import described
from diffjax.data.everything import Everything

NAMES = spec.names(diffjax.data)
SPLITS = ("train", "test")


@pytest.fixture(params=NAMES)
def dataset(request, specs):
    return spec.build(specs[request.param], diffjax.data)


def contents(records):
    return [record["image"].tobytes() for record in map(records.__getitem__, range(len(records)))]


def test_names():
    assert {"captions", "embedded", "folder", "idx", "tfds"} <= set(NAMES)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("image_size", [None, 7, 16])
def test_records(dataset, split, image_size):
    records = dataset.open(split, image_size)
    assert isinstance(dataset, Dataset)
    assert isinstance(records, Records)
    assert len(records) > 0
    assert records.image_shape[2] in (1, 3)
    if image_size:
        assert records.image_shape[:2] == (image_size, image_size)
    for index in range(min(len(records), 20)):
        record = records[index]
        assert record["image"].shape == records.image_shape
        assert record["image"].dtype == np.float32
        assert abs(record["image"]).max() <= 1
        assert ("label" in record) == (records.num_classes is not None)
        if "label" in record:
            assert isinstance(record["label"], np.int32)
            assert 0 <= record["label"] < records.num_classes
        assert isinstance(record.get("text", ""), str)
    assert len(records.class_names) in (0, records.num_classes)


def test_contents_are_those_of_the_splits(dataset):
    train, test = (dataset.open(split, None) for split in SPLITS)
    contents = train.contents
    if not isinstance(dataset, Everything):  # it holds nothing out of training
        assert contents == test.contents
        assert contents.num_held_out == len(test)
    for records, counts in ((train, contents.trained), (test, contents.held_out)):
        labels = [records[i]["label"] for i in range(len(records))] if counts else ()
        assert sum(counts) == len(labels)
        assert list(counts) == np.bincount(labels, minlength=len(counts)).tolist()
    assert described(train).startswith(f"{len(train):,} images of ")


def test_images_span_the_range(dataset):
    images = next(epoch(dataset.open("train", None), 20))["image"]
    assert -1 <= images.min() < -0.95
    assert 0.95 < images.max() <= 1


def test_splits_share_no_record(dataset):
    if isinstance(dataset, Everything):
        return  # they share all, and nobody is told otherwise: test_everything.py
    train, test = (contents(dataset.open(split, None)) for split in SPLITS)
    assert not set(train) & set(test)
    assert len(set(train)) == len(train)


def test_opening_again_gives_the_same(dataset):
    first, again = (dataset.open("test", None) for _ in range(2))
    assert contents(first) == contents(again)


def test_splits_agree_on_classes_and_shape(dataset):
    train, test = (dataset.open(split, None) for split in SPLITS)
    assert train.num_classes == test.num_classes
    assert train.class_names == test.class_names
    assert train.image_shape == test.image_shape


def test_batches_stack_records(dataset):
    records = dataset.open("train", None)
    batch = next(batches(records, 6, seed=0))
    assert batch["image"].shape == (6, *records.image_shape)
    assert {len(values) for values in batch.values()} == {6}
    whole = next(epoch(records, len(records)))
    rows = {record.tobytes(): index for index, record in enumerate(whole["image"])}
    for row, image in enumerate(batch["image"]):
        for key, values in batch.items():
            assert np.array_equal(values[row], records[rows[image.tobytes()]][key])


def test_spec_round_trip(dataset):
    assert spec.build(spec.render(dataset), diffjax.data) == dataset


@pytest.mark.parametrize("image_size", [0, -3])
def test_no_size_below_one(dataset, image_size):
    with pytest.raises(diffjax.errors.UserError, match=rf"image_size is {image_size}: choose 1"):
        dataset.open("train", image_size)

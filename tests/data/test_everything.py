"""Both splits as one to train on."""

import numpy as np

from diffjax.data.embedded import Embedded
from diffjax.data.everything import Everything


def test_trains_on_both_splits_and_tests_on_the_one():
    parts = [Embedded().open(split, 8) for split in ("train", "test")]
    train, test = (Everything("embedded").open(split, 8) for split in ("train", "test"))
    assert len(train) == sum(map(len, parts)) == 5000
    assert len(test) == len(parts[1])
    about = ("image_shape", "num_classes", "class_names")
    assert all(getattr(train, name) == getattr(parts[0], name) for name in about)
    last = len(parts[0])
    for index, record in ((0, parts[0][0]), (last - 1, parts[0][last - 1]), (last, parts[1][0])):
        np.testing.assert_array_equal(train[index]["image"], record["image"])
        assert train[index]["label"] == record["label"]
    np.testing.assert_array_equal(train[4999]["image"], parts[1][499]["image"])

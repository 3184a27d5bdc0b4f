"""The images that come with the package."""

import numpy as np

from diffjax.data import embedded, epoch


def test_balanced_splits():
    for split, count in (("train", 450), ("test", 50)):
        whole = next(epoch(embedded.Embedded().open(split, None), 5000))
        assert np.bincount(whole["label"]).tolist() == [count] * 10
        assert whole["image"].shape == (10 * count, 28, 28, 1)


def test_labels_fit_the_images():
    """By shape alone: trousers are narrow, sneakers low, and a bag fills the width."""
    records = embedded.Embedded().open("train", None)
    whole = next(epoch(records, 5000))
    ink = (whole["image"][..., 0] + 1) / 2

    def mean_of(name):
        return ink[whole["label"] == records.class_names.index(name)].mean(0)

    assert mean_of("trouser")[:, :8].mean() < 0.05 < 0.3 < mean_of("shirt")[:, 4:10].mean()
    assert mean_of("sneaker")[:8].mean() < 0.05 < 0.3 < mean_of("sneaker")[14:20].mean()
    assert mean_of("bag")[14:22, 2:26].mean() > 0.4
    assert mean_of("ankle boot")[4:10, 18:24].mean() > 2 * mean_of("sneaker")[4:10, 18:24].mean()

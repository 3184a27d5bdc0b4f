"""Batches: their order, how they resume, and that they do not depend on the layout."""

import collections
import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.data import batches, epoch
from diffjax.data.contents import Contents
from diffjax.errors import UserError


class Numbered:
    """Records that carry their own index as label and text."""

    image_shape = (1, 1, 1)
    class_names = ()
    contents = Contents()

    def __init__(self, count):
        self.num_classes = count

    def __len__(self):
        return self.num_classes

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        image = np.zeros((1, 1, 1), np.float32)
        return {"image": image, "label": np.int32(index), "text": f"number {index}"}


class Damaged(Numbered):
    def __getitem__(self, index):
        raise UserError(f"record {index} is damaged")


def test_a_large_batch_is_no_larger_than_the_set():
    """A small set may come several times in a batch; a mistaken million would never be read."""
    assert len(next(batches(Numbered(3), 1024, 0))["label"]) == 1024
    assert len(next(batches(Numbered(1500), 1500, 0))["label"]) == 1500
    for count, size, most in ((3, 1025, "1,024"), (4500, 10**6, "4,500")):
        with pytest.raises(UserError, match=f"has {count:,} images: choose at most {most}"):
            batches(Numbered(count), size, 0)


def labels(iterator, count):
    return [batch["label"].tolist() for batch in itertools.islice(iterator, count)]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**32 - 1))
def test_every_record_once_an_epoch(size, batch_size, seed):
    """Whatever the batch size, larger than the set too: batches run on across the epochs."""
    count = -(-3 * size // batch_size)
    stream = flat(labels(batches(Numbered(size), batch_size, seed), count))
    for start in range(0, 3 * size, size):
        assert sorted(stream[start : start + size]) == list(range(size))


def test_each_epoch_and_each_seed_has_its_own_order():
    epochs = [labels(batches(Numbered(50), 50, seed), 3) for seed in (0, 1)]
    orders = {tuple(order) for stream in epochs for order in stream} | {tuple(range(50))}
    assert len(orders) == 7


def test_shuffling_reaches_across_the_set():
    counts = collections.Counter()
    for seed in range(400):
        counts.update(labels(batches(Numbered(8), 1, seed), 1)[0])
    assert all(20 <= counts[index] <= 90 for index in range(8))  # 50 expected, deviation 6.6


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 30),
    batch_size=st.integers(1, 40),
    position=st.integers(0, 40),
    ahead=st.integers(0, 10),
)
def test_resumes_at_any_position(size, batch_size, position, ahead):
    iterator = batches(Numbered(size), batch_size, seed=3)
    labels(iterator, position)
    state = json.loads(json.dumps(iterator.get_state()))
    following = labels(iterator, 5)
    resumed = batches(Numbered(size), batch_size, seed=3)
    labels(resumed, ahead)
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert labels(resumed, 5) == following
    iterator.set_state(state)
    assert labels(iterator, 5) == following


@pytest.mark.parametrize("process_count", [2, 4])
def test_does_not_depend_on_the_layout(process_count):
    """The processes' parts make up the batch of one process, and its state is that of each."""
    alone = batches(Numbered(21), 8, seed=5)
    parts = [batches(Numbered(21), 8, 5, index, process_count) for index in range(process_count)]
    for _ in range(7):
        joined = np.concatenate([next(part)["label"] for part in parts])
        np.testing.assert_array_equal(joined, next(alone)["label"])
    state = alone.get_state()
    assert [part.get_state() for part in parts] == [state] * process_count
    for former, latter in itertools.permutations((1, 2, 4), 2):
        old = [batches(Numbered(21), 8, 5, index, former) for index in range(former)]
        for iterator in old:
            labels(iterator, 6)
        new = [batches(Numbered(21), 8, 5, index, latter) for index in range(latter)]
        for iterator in new:
            iterator.set_state(old[-1].get_state())
        expected = np.concatenate([next(iterator)["label"] for iterator in old])
        joined = np.concatenate([next(iterator)["label"] for iterator in new])
        np.testing.assert_array_equal(joined, expected)


def test_batch_keeps_types():
    batch = next(batches(Numbered(12), 5, seed=0))
    assert batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int32
    assert batch["text"].tolist() == [f"number {label}" for label in batch["label"]]


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_epoch_is_one_pass_in_order(size, batch_size):
    passed = [batch["label"].tolist() for batch in epoch(Numbered(size), batch_size)]
    assert flat(passed) == list(range(size))
    assert all(len(part) == batch_size for part in passed[:-1])


def test_reads_many_at_once_where_records_can():
    class Many(Numbered):
        def __getitem__(self, index):
            raise AssertionError("one by one")

        def __getitems__(self, indices):
            return [Numbered.__getitem__(self, index) for index in indices]

    assert labels(batches(Many(9), 4, 0), 5) == labels(batches(Numbered(9), 4, 0), 5)
    assert labels(epoch(Many(9), 4), 5) == labels(epoch(Numbered(9), 4), 5)


def test_errors_of_reading_threads_arrive_as_they_are():
    with pytest.raises(UserError) as caught:
        next(batches(Damaged(4), 2, seed=0))
    assert re.fullmatch(r"record \d is damaged", str(caught.value))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: choose 1 or more"),
        ({"batch_size": 6, "process_count": 4}, "batch_size 6 .* 4 processes: choose 8"),
        ({"batch_size": 1, "seed": -1}, "seed is -1: choose 0 to"),
        ({"batch_size": 1, "seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UserError, match=message):
        batches(Numbered(4), **{"seed": 0, **options})


def test_epoch_refuses_at_once():
    with pytest.raises(UserError, match="batch_size is -1"):
        epoch(Numbered(4), -1)

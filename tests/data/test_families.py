"""Families of captions: what is held out together."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax.data.families import check_any_family, families, normalised, split_families
from diffjax.errors import UserError

CAPTIONS = st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=3), max_size=12)


def test_a_caption_is_the_same_in_any_case_and_spacing():
    assert normalised("  Straße\t\nnach  ROM ") == "strasse nach rom"
    assert families([["A  dog"], ["a cat"], ["a dog "]]).tolist() == [0, 1, 0]


def test_a_chain_of_shared_captions_is_one_family():
    assert families([["a"], ["b"], ["c"], ["b", "c"], ["d"], ["c", "a"]]).tolist() == [
        0, 0, 0, 0, 1, 0,
    ]  # fmt: skip


@given(CAPTIONS)
def test_families_are_the_connected_components(captions):
    """By definition: the transitive closure of sharing a caption, by repeated multiplication."""
    count = len(captions)
    linked = np.eye(count, dtype=bool)
    for a, b in itertools.product(range(count), repeat=2):
        linked[a, b] |= bool(captions[a] & captions[b])
    for _ in range(count):
        linked = linked @ linked
    numbers = families(captions)
    np.testing.assert_array_equal(numbers[:, None] == numbers, linked)
    assert list(dict.fromkeys(numbers.tolist())) == list(range(len(set(numbers.tolist()))))


@given(CAPTIONS)
def test_no_family_is_in_both_splits(captions):
    numbers = families(captions)
    parts = split_families(numbers)
    assert sorted([*parts["train"], *parts["test"]]) == list(range(len(captions)))
    train, test = (set(numbers[parts[name]].tolist()) for name in ("train", "test"))
    assert not train & test
    assert not captions or train
    if len(train | test) > 1:
        assert sorted(test) == list(range(0, len(train | test), 10))


def test_one_family_is_for_training():
    parts = split_families(families([["a"], ["A"]]))
    assert parts["train"].tolist() == [0, 1]
    with pytest.raises(UserError, match="'x' has too few families of captions to leave one for"):
        check_any_family(parts["test"], "test", "'x'")

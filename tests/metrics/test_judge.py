"""What a judge says, where it can be counted by hand."""

import hypothesis.extra.numpy as hnp
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from diffjax.errors import UserError
from diffjax.metrics.judge import agreement, check_knows, class_shares, confidence, make_judge

LOGITS = hnp.arrays(np.float64, (6, 4), elements=st.floats(-50, 50))


def test_counted_by_hand():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.6, 0.4, 1e-9]])
    assert confidence(logits) == pytest.approx((0.7 + 0.8 + 0.5 + 0.6) / 4)
    np.testing.assert_array_equal(class_shares(logits), [0.75, 0.25, 0])
    assert agreement(logits, np.array([0, 1, 2, 1])) == 0.5


@given(LOGITS)
def test_confidence_is_the_mean_largest_softmax(logits):
    expected = scipy.special.softmax(logits, axis=1).max(1).mean()
    np.testing.assert_allclose(confidence(logits), expected, rtol=1e-12)


def test_confidence_at_its_ends():
    assert confidence(np.zeros((5, 10))) == pytest.approx(0.1)
    assert confidence(np.eye(10, dtype=np.float32) * 1e4) == 1  # float32, and would overflow exp


@given(LOGITS)
def test_shares_sum_to_one(logits):
    assert class_shares(logits).sum() == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_batches_are_of_one_shape_and_change_nothing(count):
    shapes = []

    def apply(variables, images):
        shapes.append(images.shape)
        flat = images.reshape(len(images), -1)
        return flat @ variables["params"], 2 * flat

    images = np.random.default_rng(0).normal(size=(count, 2, 2, 1)).astype(np.float32)
    params = jnp.arange(12.0).reshape(4, 3)
    opinion = make_judge(apply, batch_size=4)(params, images)
    flat = images.reshape(count, 4)
    np.testing.assert_allclose(opinion.logits, flat @ np.asarray(params), rtol=1e-5)
    np.testing.assert_array_equal(opinion.features, 2 * flat)
    assert shapes == [(4, 2, 2, 1)], "traced once"


def test_labels_out_of_range():
    for labels, message in (([0, 1, 3], "label 3 is out of range"), ([0, -1, 1], "label -1")):
        with pytest.raises(UserError, match=f"{message}.*classes 0 to 2"):
            agreement(np.zeros((3, 3)), np.array(labels))


def of_accuracy(share, count):
    """Logits of four classes that are right for the first part of the labels."""
    labels = np.arange(count) % 4
    guesses = np.where(np.arange(count) < share * count, labels, (labels + 1) % 4)
    return np.eye(4)[guesses], labels


def test_a_judge_of_other_data():
    own = of_accuracy(0.95, 400)
    check_knows(*of_accuracy(0.9, 400), *own)
    check_knows(*of_accuracy(0.6, 400), *own)  # the same classes in other pictures
    check_knows(*of_accuracy(0.25, 4), *own)  # four images tell nothing
    with pytest.raises(UserError, match=r"agrees with 10% .* and with 95% of its own"):
        check_knows(*of_accuracy(0.1, 400), *own)
    check_knows(*of_accuracy(0.3, 400), *of_accuracy(0.4, 400))  # one that has learnt little yet

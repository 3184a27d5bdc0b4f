"""The course's mask of a condition, beside the one that hides a whole sample's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.objectives.noising import masked_elements
from diffjax.randomness import sample_keys

KEYS = sample_keys(jax.random.key(0), 0, 4000)
LABELS = jnp.arange(4000) % 3
BATCH = {"image": jnp.zeros((4000, 1, 1, 1)), "label": LABELS}


def seen(params, keys, batch):
    return jnp.zeros(()), batch


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_of_one_hot_labels_so_many_are_dropped_and_no_other_is_put_in(share):
    _, batch = masked_elements(seen, 3, share)({}, KEYS, BATCH)
    numbers, one_hot = np.asarray(batch["label"]), np.eye(3)[np.asarray(LABELS)]
    assert not (numbers * (1 - one_hot)).any()
    kept = numbers.max(-1)
    for label in range(3):
        # Within four standard errors of 1,333 draws.
        assert abs(kept[np.asarray(LABELS) == label].mean() - (1 - share)) < 4 * 0.0126
    np.testing.assert_array_equal(batch["image"], BATCH["image"])


def test_a_sample_s_mask_is_its_own():
    loss = masked_elements(seen, 3, 0.5)
    whole = loss({}, KEYS[:64], {"label": LABELS[:64]})[1]["label"]
    half = loss({}, KEYS[32:64], {"label": LABELS[32:64]})[1]["label"]
    np.testing.assert_array_equal(whole[32:], half)
    assert 10 < float(half.sum()) < 22


def test_a_share_that_is_none():
    with pytest.raises(UserError, match=r"cond_drop=1\.5"):
        masked_elements(seen, 3, 1.5)

"""Every condition keeps the contract, and hides what it says as often as it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax.conditions
from diffjax import spec
from diffjax.conditions.label import Label
from diffjax.conditions.low_resolution import LowResolution
from diffjax.conditions.none import Unconditional
from diffjax.conditions.one_hot import OneHot
from diffjax.conditions.tokens import Tokens
from diffjax.conditions.vector import Vector
from diffjax.errors import UserError
from diffjax.randomness import sample_keys

B = 6
LABELS = jnp.asarray([0, 1, 2, 0, 1, 2], jnp.int32)
EACH = {
    "none": Unconditional(),
    "label": Label(3, drop=0.4),
    "one_hot": OneHot(3, drop=0.4),
    "vector": Vector(4, drop=0.4),
    "tokens": Tokens(5, drop=0.4),
    "low_resolution": LowResolution((2, 3, 1), 2, drop=0.4),
}
BATCH = {
    "label": LABELS,
    "vector": jnp.arange(24.0).reshape(B, 4) + 1,
    "tokens": jnp.arange(30, dtype=jnp.int32).reshape(B, 5) + 1,
    "token_mask": jnp.ones((B, 5), bool).at[:, 3:].set(False),
    "image": jnp.arange(B * 24.0).reshape(B, 4, 6, 1) + 1,
}
ASKED = {
    "vector": np.ones((2, 4)),
    "tokens": np.ones((2, 5), int),
    "low_resolution": np.ones((2, 2, 3, 1)),
}


def test_each_condition_is_tried_here():
    assert set(EACH) == set(spec.names(diffjax.conditions))


@pytest.mark.parametrize("name", EACH)
def test_contract(name):
    """A condition's example, a batch's, an asked one and the null one have one shape and dtype."""
    condition = EACH[name]
    assert spec.build(spec.render(condition), diffjax.conditions) == condition
    of_batch = condition.of_batch({key: BATCH[key] for key in condition.batch_keys})
    forms = [jax.tree.map(lambda a: (a.shape, a.dtype), of_batch)]
    asked = condition.asked(ASKED.get(name), B)
    for other in (condition.example(B), condition.null(of_batch), asked):
        forms.append(jax.tree.map(lambda a: (a.shape, a.dtype), other))
    assert all(form == forms[0] for form in forms)
    assert jax.eval_shape(lambda: condition.example(B)) is not None or name == "none"


@pytest.mark.parametrize("name", [name for name in EACH if name != "none"])
def test_a_sample_is_hidden_whole_and_by_its_own_key(name):
    condition, count = EACH[name], 600
    batch = {key: jnp.repeat(BATCH[key], count // B, axis=0) for key in condition.batch_keys}
    keys = sample_keys(jax.random.key(0), 0, count)
    cond = condition.of_batch(batch)
    hidden = condition.hide(keys, cond)
    null = condition.null(cond)

    def rows_equal(a, b):
        found = [
            (x == y).reshape(count, -1).all(1)
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        ]
        return np.logical_and.reduce(found)

    is_null, kept = rows_equal(hidden, null), rows_equal(hidden, cond)
    assert (is_null | kept).all()
    assert abs(is_null.mean() - condition.drop) < 0.07  # 3.5 standard deviations
    some = slice(100, 110)
    alone = condition.hide(keys[some], jax.tree.map(lambda a: a[some], cond))
    np.testing.assert_array_equal(jax.tree.leaves(alone)[0], jax.tree.leaves(hidden)[0][some])


@pytest.mark.parametrize(
    "condition", [OneHot(2, "element", drop=0.3), Vector(2, "element", drop=0.3)]
)
def test_elements_are_hidden_each_by_itself(condition):
    keys = sample_keys(jax.random.key(1), 0, 4000)
    kept = np.asarray(condition.hide(keys, jnp.ones((4000, 2))))
    assert set(np.unique(kept)) == {0.0, 1.0}
    np.testing.assert_allclose(kept.mean(0), 0.7, atol=0.025)
    assert abs((kept.sum(1) == 0).mean() - 0.09) < 0.016  # drop² : independent of each other


def test_padded_tokens_become_those_of_no_words():
    condition = Tokens(5, 3, padded=True, drop=0.4)
    tokens, empty = jnp.ones((B, 5, 3)), jnp.full((B, 5, 3), 2.0)
    cond = condition.of_batch({"tokens": tokens, "empty_tokens": empty})
    hidden = condition.hide(sample_keys(jax.random.key(0), 0, B), cond)
    assert set(hidden.tokens.mean((1, 2)).tolist()) == {1.0, 2.0}
    for made in (cond, hidden, condition.null(cond), condition.example(B)):
        assert made.mask.shape == (B, 5)
        assert made.mask.all(), "padding is seen"
    np.testing.assert_array_equal(condition.null(cond).tokens, empty)
    with pytest.raises(UserError, match="give texts"):
        condition.asked(np.ones((2, 5, 3)), B)


def test_labels_that_are_asked_for():
    assert Label(3).asked(None, 5).tolist() == [0, 1, 2, 0, 1]
    assert Label(3).asked([2, 0], 5).tolist() == [2, 0, 2, 0, 2]
    assert Label(3).asked(["1"], 2).tolist() == [1, 1]
    assert OneHot(3).asked([2], 1).tolist() == [[0, 0, 1]]
    assert Label(10, drop=0.1).embeddings == 11
    assert Label(10).embeddings == 10


def test_classes_are_asked_for_by_name():
    for condition in (Label(3, names=("cat", "0", "sea dog")), OneHot(3, names=("cat", "0", "x"))):
        asked = condition.labels(["cat", "0", 0, "2", np.int64(1)], 5)
        assert asked.tolist() == [0, 1, 0, 2, 1], "a string is a name first, a number a number"
    named = Label(3).named(("a", "b", "c"))
    assert named == Label(3, names=("a", "b", "c"))
    assert named.fits(("a", "b", "c"))
    assert named.fits(())
    assert Label(3).fits(("a", "b", "c"))
    assert not named.fits(("b", "a", "c"))
    assert spec.build(spec.render(named), diffjax.conditions) == named
    assert Vector(4).named(("a",)) == Vector(4)


def test_a_smaller_image_has_the_means_of_squares():
    found = EACH["low_resolution"].of_batch(BATCH).image
    means = np.asarray(BATCH["image"]).reshape(B, 2, 2, 3, 2, 1).mean((2, 4))
    np.testing.assert_allclose(found, means, rtol=1e-6)


def test_smaller_images_get_noise_that_is_told():
    """Its standard deviation is even from 0 to the largest, and is that of what is added."""
    condition, count = LowResolution((20, 20, 1), 2, 0.6), 400
    clean = condition.example(count)
    found = condition.hide(sample_keys(jax.random.key(2), 0, count), clean)
    assert 0 <= found.noise.min() < 0.01
    assert 0.59 < found.noise.max() <= 0.6
    assert abs(float(found.noise.mean()) - 0.3) < 0.03  # 3.5 standard errors
    ratio = np.asarray(found.image.std((1, 2, 3)) / found.noise)
    np.testing.assert_allclose(ratio, 1, atol=0.17)  # 4.8 standard errors of 400 pixels
    some = condition.hide(sample_keys(jax.random.key(2), 7, 1), condition.example(1))
    np.testing.assert_allclose(some.image[0], found.image[7], atol=1e-6)


def test_the_null_token_leaves_attention_something_to_look_at():
    cond = EACH["tokens"].of_batch(BATCH)
    null = EACH["tokens"].null(cond)
    assert null.mask.sum(1).tolist() == [1] * B
    assert not null.tokens.any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Label(3, drop=1.0), r"cond_drop=1\.0"),
        (lambda: Label(3, drop=-0.1), r"cond_drop=-0\.1"),
        (lambda: Label(3, drop=float("nan")), "cond_drop=nan"),
        (lambda: Label(0), "at least one class"),
        (lambda: OneHot(0), "at least one class"),
        (lambda: Vector(0), "at least one number"),
        (lambda: Tokens(0), "length must be above 0"),
        (lambda: Tokens(4, 0), "width must be above 0"),
        (lambda: Unconditional(drop=0.1), "takes none"),
        (lambda: Label(3).asked([3], 1), "choose from 0 to 2"),
        (lambda: Label(3, names=("a", "b")), "2 names for 3 classes"),
        (lambda: Label(2, names=("a", "b")).asked(["c"], 1), "0 to 1, or by name: a, b"),
        (lambda: Label(3).asked([-1], 1), "choose from 0 to 2"),
        (lambda: Label(3).asked([0.5], 1), "choose from 0 to 2"),
        (lambda: Label(3).asked([], 1), "give a list of one or more"),
        (lambda: Unconditional().asked([1], 1), "takes no condition"),
        (lambda: Vector(3).asked(None, 1), "3 numbers per image"),
        (lambda: Vector(3).asked(np.ones((1, 4)), 1), r"this run takes \(3,\)"),
        (lambda: Tokens(3).asked(np.ones((1, 4)), 1), r"this run takes \(3,\)"),
        (lambda: LowResolution((2, 2, 1), 1), "factor=1: choose 2 or more"),
        (lambda: LowResolution((2, 2, 1), 2, -0.1), "noise=-0.1: choose 0"),
        (lambda: LowResolution((2, 2, 1)).asked(None, 1), "give the images to enlarge"),
        (lambda: LowResolution((2, 2, 1)).asked(np.ones((1, 2, 2, 3)), 1), "of 1 channels"),
        (lambda: LowResolution((2, 2, 1)).asked(np.ones(2), 1), "images of : this"),
        (lambda: LowResolution((2, 2, 1)).asked(np.ones((1, 3, 1, 1)), 1), "images of 3x1 are"),
        (lambda: Label(3).unwanted(LABELS), "cond_drop above 0"),
        (lambda: Unconditional().unwanted(None), "cond_drop above 0"),
    ],
)
def test_refused(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)

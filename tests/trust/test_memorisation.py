"""Copies are found among samples, members are told from others where they can be, and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.schedules.linear import Linear
from diffjax.trust.membership import Attack, attack, by_loss, by_steps
from diffjax.trust.memorisation import NEIGHBOURS, compare, distinct, threshold

RNG = np.random.default_rng(0)


def pictures(count, seed):
    """Smooth images of 8x8, of standard deviation 1/2 or so."""
    noise = np.random.default_rng(seed).normal(size=(count, 12, 12))
    smooth = ndimage.gaussian_filter(noise, (0, 1, 1))[:, 2:-2, 2:-2]
    return (1.5 * smooth).reshape(count, 64).astype(np.float64)


TRAINING, HELD_OUT, NEW = (pictures(*each) for each in ((600, 1), (400, 2), (100, 3)))


def test_distances_are_those_to_all_training_images():
    known = distinct(TRAINING)
    found = compare(NEW, known)
    apart = cdist(NEW, TRAINING)
    np.testing.assert_array_equal(known.first[found.which], apart.argmin(1))
    np.testing.assert_allclose(found.distance, apart.min(1), rtol=1e-9)
    typical = np.sort(apart, 1)[:, :NEIGHBOURS].mean(1)
    np.testing.assert_allclose(found.score, apart.min(1) / typical, rtol=1e-9)


def test_canaries_are_found_and_nothing_else():
    """Training images that were repeated a hundred times, drawn again with a little noise."""
    canaries = TRAINING[:20]
    trained = distinct(np.concatenate([TRAINING, np.repeat(canaries, 100, axis=0)]))
    copies = canaries + RNG.normal(0, 0.03, canaries.shape)
    edge = threshold(compare(HELD_OUT[::2], trained))
    found = compare(copies, trained)
    assert np.mean(found.score < edge) >= 0.9
    np.testing.assert_array_equal(trained.first[found.which], np.arange(20))
    np.testing.assert_array_equal(trained.times[found.which], 101)
    assert not (compare(NEW, trained).score < edge).any()
    assert np.mean(compare(HELD_OUT[1::2], trained).score < edge) <= 0.02


def test_an_exact_copy_scores_zero():
    known = distinct(TRAINING)
    found = compare(TRAINING[5:6], known)
    assert (found.distance[0], known.first[found.which[0]], found.score[0]) == (0, 5, 0)


def test_training_images_that_are_all_the_same():
    with pytest.raises(UserError, match="all the same"):
        distinct(np.repeat(TRAINING[:1], 5, axis=0))


PROCESS = Process(Linear(), "eps")


def memorised(training):
    """The denoiser that fits a training set perfectly: the mean of what may lie beneath x."""
    points = jnp.asarray(training.reshape(len(training), -1), jnp.float32)

    def apply(variables, x, t, train=False):
        alpha, sigma = (c[:, None] for c in PROCESS.schedule.alpha_sigma((t + 1) / 1000))
        flat = x.reshape(len(x), -1)
        squared = ((flat[:, None] - alpha[:, None] * points) ** 2).sum(-1)
        x0 = jax.nn.softmax(-squared / (2 * sigma**2), axis=1) @ points
        return ((flat - alpha * x0) / sigma).reshape(x.shape)

    return apply


def scores(apply, images):
    x0 = jnp.asarray(images.reshape(-1, 8, 8, 1), jnp.float32)
    key = jax.random.key(3)
    loss = jax.jit(by_loss(PROCESS, apply, Unconditional(), 8))({}, key, {"image": x0})
    secmi = jax.jit(by_steps(PROCESS, apply))({}, x0, None)
    return {"loss": np.asarray(loss), "SecMI": np.asarray(secmi)}


@pytest.mark.parametrize("name", ["loss", "SecMI"])
def test_members_of_a_memorised_set_are_told_from_others(name):
    apply = memorised(TRAINING[:300])
    found = attack(scores(apply, TRAINING[:300])[name], scores(apply, HELD_OUT)[name])
    assert found.auc[1] > 0.9
    assert found.caught[1] > 0.5
    assert found.false < 0.05


@pytest.mark.parametrize("name", ["loss", "SecMI"])
def test_images_that_were_not_trained_on_are_at_chance(name):
    apply = memorised(pictures(300, 9))
    found = attack(scores(apply, TRAINING[:300])[name], scores(apply, HELD_OUT)[name])
    assert found.auc[1] < 0.5 < found.auc[2]
    assert found.caught[1] <= 0.01 <= found.caught[2] + 0.01


def test_the_threshold_is_taken_from_every_second_non_member():
    """Members change nothing in it; 0.5% and 1.5% of the others lie below it."""
    others = np.arange(1.0, 401.0)
    found = attack(np.full(50, 2.5), others)
    assert found.caught[0] == 1.0
    assert found.false == 1 / 200
    assert found.auc[0] == pytest.approx(1 - 2 / 400)
    assert attack(np.full(50, 500.0), others).caught[0] == 0


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    """Normal numbers of one law: AUC 1/2."""
    rng = np.random.default_rng(5)
    held = [
        low <= 0.5 <= high
        for _, low, high in (
            Attack(*attack(rng.normal(size=60), rng.normal(size=200), seed)).auc
            for seed in range(12)
        )
    ]
    assert np.mean(held) >= 0.75


def test_too_few_to_take_a_threshold_from():
    with pytest.raises(UserError, match="200 are needed"):
        attack(np.zeros(10), np.zeros(199))

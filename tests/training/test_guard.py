"""Updates that are not finite: counted in a row, and named."""

import numpy as np
import pytest

from diffjax.training.guard import Guard, NotFinite

NAMES = ("loss", *"abcdefgh", "the parameters")


def metrics(skipped, bad=()):
    nonfinite = np.asarray([[name in bad for name in NAMES]] * len(skipped))
    return {"skipped": np.asarray(skipped, float), "nonfinite": nonfinite}


def test_a_good_update_between_starts_the_count_anew():
    guard = Guard(NAMES, limit=3)
    for step in range(1, 40, 3):
        guard.watch(step, metrics([1, 0, 1]))
    assert guard.in_row == 1


def test_the_limit_across_dispatches_and_a_resume():
    guard = Guard(NAMES, limit=4, in_row=1)
    guard.watch(10, metrics([1]))
    with pytest.raises(NotFinite, match=r"step 12: 4 updates in a row .* the last in b, d$"):
        guard.watch(11, metrics([1, 1, 1], bad="bd"))


def test_many_offenders_are_counted():
    with pytest.raises(NotFinite, match=r"in loss, a, b, c, d and 4 more$"):
        Guard(NAMES, limit=1).watch(0, metrics([1], bad=NAMES[:-1]))


def test_parameters_that_overflow_are_lost_at_once():
    with pytest.raises(NotFinite, match=r"step 8: .* in the parameters$"):
        Guard(NAMES, limit=3).watch(8, metrics([0], bad=NAMES[-1:]))

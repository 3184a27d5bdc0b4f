"""A whole comparison: its figures by themselves, its intervals, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.metrics.comparison import compare
from diffjax.metrics.density_coverage import density_coverage
from diffjax.metrics.extractors import Extractor, Features
from diffjax.metrics.frechet import frechet_distance
from diffjax.metrics.kernel import kernel_distance
from diffjax.metrics.precision_recall import precision_recall

EXTRACTOR = Extractor("judge", "0123456789abcdef", (28, 28), "none", lambda v, x: x, {})
NAMES = {"frechet", "kernel", "precision", "recall", "density", "coverage"}


def features(seed, count, *, shift=0.0, dims=4):
    rows = np.random.default_rng(seed).normal(shift, 1, size=(count, dims))
    return Features(rows, EXTRACTOR)


def alone(samples, reference):
    """Every figure, by the functions that tell one."""
    a, b = samples.rows, reference.rows
    whole = min(len(a), len(b))
    return {
        "frechet": frechet_distance(a, b),
        "kernel": kernel_distance(a[:whole], b[:whole], subsets=1, subset_size=whole).mean,
        **precision_recall(b, a)._asdict(),
        **density_coverage(b, a)._asdict(),
    }


def test_every_figure_is_that_of_its_own_function():
    samples, reference, floor = features(0, 90, shift=0.5), features(1, 90), features(2, 90)
    found = compare(samples, reference, floor, seed=7)
    assert json.loads(json.dumps(found)) == {
        **found,
        "extractor": {**found["extractor"], "image_size": [28, 28]},
    }
    assert found["num"] == {"samples": 90, "reference": 90, "floor": 90}
    assert found["extractor"] == {
        "name": "judge",
        "checksum": "0123456789abcdef",
        "image_size": (28, 28),
        "resize": "none",
        "dims": 4,
    }
    assert (found["interval"]["level"], found["interval"]["seed"]) == (0.95, 7)
    for column, a in (("samples", samples), ("real", floor)):
        assert found[column].keys() == NAMES
        for name, value in alone(a, reference).items():
            said = found[column][name]
            assert said["value"] == pytest.approx(value, rel=1e-9, abs=1e-12), name
            assert said["low"] <= said["value"] <= said["high"], name
        assert found[column]["frechet"]["bias"] > 0
    assert compare(samples, reference, floor, seed=7) == found
    assert compare(samples, reference, floor, seed=8)["samples"] != found["samples"]


def test_only_the_figures_asked_for():
    sets = [features(i, count, dims=20) for i, count in enumerate((15, 16, 17))]
    found = compare(*sets, figures=("kernel", "neighbours"))
    assert found["samples"].keys() == found["real"].keys() == NAMES - {"frechet"}
    assert found["num"] == {"samples": 15, "reference": 16, "floor": 17}


def test_bounds():
    """Shares end at 0 and 1, and a Fréchet distance at 0."""
    found = compare(features(0, 60), features(1, 60), features(2, 60, shift=50))
    for name in ("precision", "recall", "coverage"):
        assert found["samples"][name]["high"] <= 1
        assert found["real"][name] == {"value": 0, "low": 0, "high": 0}
    near = compare(*(features(i, 60, dims=1) for i in range(3)), figures=("frechet",))
    assert near["samples"]["frechet"]["low"] == 0


def refused(message, *sets, **options):
    with pytest.raises(UserError, match=message) as caught:
        compare(*sets, **options)
    assert "\n" not in str(caught.value)


def test_features_of_two_extractors():
    same, floor = features(0, 20), features(1, 20)
    for name, value in (
        ("name", "mobilenet_v2"),
        ("checksum", "fedcba98"),
        ("resize", "bilinear"),
        ("image_size", (32, 32)),
    ):
        other = Features(same.rows, dataclasses.replace(EXTRACTOR, **{name: value}))
        refused("cannot be compared", other, same, floor)
        refused("cannot be compared", same, other, floor)
        refused("cannot be compared", same, floor, other)


def test_fewer_samples_than_dimensions():
    few, enough = features(0, 20, dims=20), features(1, 21, dims=20)
    compare(enough, enough, enough, figures=("frechet",))
    for sets in ((few, enough, enough), (enough, few, enough), (enough, enough, few)):
        refused("needs more than 20 images, and of (samples|reference|floor) there are 20", *sets)
        compare(*sets, figures=("kernel",))


def test_what_cannot_be_compared():
    sets = [features(i, 20) for i in range(3)]
    refused("at least 12", features(0, 11), *sets[1:])
    refused("choose among frechet, kernel, neighbours", *sets, figures=("fid",))
    refused("choose among", *sets, figures=())
    broken = Features(np.full((20, 4), np.nan), EXTRACTOR)
    for figure in ("frechet", "kernel", "neighbours"):
        with pytest.raises(ValueError, match="not finite"):
            compare(broken, *sets[1:], figures=(figure,))


@pytest.mark.slow
def test_intervals_hold_the_mean_over_draws():
    """In 95 of 100 draws of two Gaussians; less its bias, Fréchet's that of the Gaussians."""
    mean, deviation, dims = 0.3, 1.1, 8
    known = dims * (mean**2 + (deviation - 1) ** 2)

    def draw(i, count=150):
        rng = np.random.default_rng(i)
        a, b = rng.normal(mean, deviation, (count, dims)), rng.normal(size=(count, dims))
        return Features(a, EXTRACTOR), Features(b, EXTRACTOR)

    every = [alone(*draw(i)) for i in range(1000, 1200)]
    truth = {name: np.mean([one[name] for one in every]) for name in NAMES}
    held = dict.fromkeys((*NAMES, "distributions"), 0)
    biased = 0
    for i in range(100):
        found = compare(*draw(i), draw(i)[1])["samples"]
        for name, said in found.items():
            held[name] += said["low"] <= truth[name] <= said["high"]
        said = found["frechet"]
        held["distributions"] += said["low"] <= known + said["bias"] <= said["high"]
        biased += said["low"] <= known <= said["high"]
    assert min(held.values()) >= 91, held  # two standard errors below 95
    assert biased < 85, "or there would be nothing to take off"

"""Everything that is said of one set of images beside another, and how sure it is."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from diffjax.errors import UserError
from diffjax.metrics import density_coverage, precision_recall
from diffjax.metrics.extractors import Features
from diffjax.metrics.features import checked
from diffjax.metrics.frechet import count_bias, influence
from diffjax.metrics.intervals import LEVEL, REPLICATES, halves, interval
from diffjax.metrics.kernel import squared_mmd
from diffjax.metrics.neighbours import covers, distances, nearest, radii

Rows = Float[np.ndarray, "_ D"]
Kept = Bool[np.ndarray, "R _"]
Values = dict[str, Float[np.ndarray, "R"]]  # of all rows, then of half of them, R - 1 times

BIAS_HALVES = 8
NEAR = 64  # of so many nearest, half of the set has six with all but certainty
LEAST = 2 * (density_coverage.NEIGHBOURS + 1)  # rows, half of which have neighbours


def compare(
    samples: Features,
    reference: Features,
    floor: Features,
    *,
    figures: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What JSON can hold: extractor, counts, and figures with their intervals of 95%.

    Each of `figures`, by default all of FIGURES, is told of the samples, and under "real" of
    `floor`, which are further real images, both against `reference`. An interval holds the mean
    over other draws of as many images (`intervals.interval`): in simulations of Gaussians 94 to 98
    times of 100, and more often for a Fréchet or kernel distance of 0, where it is wider by half.
    That mean has a bias for the counts in all figures but the kernel distance, and the floor has it
    too. Of the Fréchet distance it is told as "bias": value and interval less it are those of the
    distributions, and held the known distance 92 to 100 times of 100, where before none did.

    Raises UserError for features of different extractors, unknown figures, fewer than LEAST rows,
    and for a Fréchet distance of no more rows than dimensions, whose covariance is singular.
    """
    figures = tuple(FIGURES) if figures is None else figures
    sets = {"samples": samples, "reference": reference, "floor": floor}
    check(sets, figures)
    rows = {name: checked(features.rows, least=LEAST) for name, features in sets.items()}
    return {
        "extractor": {**reference.extractor.describe(), "dims": rows["reference"].shape[1]},
        "num": {name: len(x) for name, x in rows.items()},
        "interval": {
            "level": LEVEL,
            "method": "half samples",
            "replicates": REPLICATES,
            "seed": seed,
        },
        "samples": _measure(rows["samples"], rows["reference"], figures, seed),
        "real": _measure(rows["floor"], rows["reference"], figures, seed),
    }


def check(sets: Mapping[str, Features], figures: Sequence[str]) -> None:
    """Raises UserError where `compare` would, of "reference" and whatever other sets there are."""
    if not figures or not set(figures) <= FIGURES.keys():
        raise UserError(f"figures {', '.join(figures)!r}: choose among {', '.join(FIGURES)}")
    reference = sets["reference"]
    for name, features in sets.items():
        count, dims = features.rows.shape
        if features.extractor != reference.extractor:
            a, b = (
                f"{e.name} ({e.checksum[:8]}, {e.resize})"
                for e in (features.extractor, reference.extractor)
            )
            raise UserError(
                f"features of {a} cannot be compared with those of {b}: use one extractor for all"
            )
        if count < LEAST:
            raise UserError(f"{name} are {count} images: at least {LEAST} are needed")
        if "frechet" in figures and count <= dims:
            others = ", ".join(figure for figure in FIGURES if figure != "frechet")
            raise UserError(
                f"a Fréchet distance of {dims} features needs more than {dims} images, and of "
                f"{name} there are {count}: give more, or leave it out ({others} need no more)"
            )


def _measure(samples: Rows, reference: Rows, figures: Sequence[str], seed: int) -> dict[str, Any]:
    """Value and interval of every figure."""
    rng = np.random.default_rng(seed)
    kept = (halves(len(samples), REPLICATES, rng), halves(len(reference), REPLICATES, rng))
    found = {}
    for figure in figures:
        for name, values in FIGURES[figure](samples, reference, *kept).items():
            low, high = interval(values, *BOUNDS[name])
            found[name] = {"value": float(values[0]), "low": low, "high": high}
    if "frechet" in figures:
        few = [x[1 : 1 + BIAS_HALVES] for x in kept]
        found["frechet"]["bias"] = count_bias(samples, reference, *few)
    return found


def _frechet(samples: Rows, reference: Rows, in_samples: Kept, in_reference: Kept) -> Values:
    """Of first order in the weights, 2 or 0, that rows have in a half; 1 where all are there."""
    found = influence(samples, reference)
    weights = [2.0 * kept - 1 for kept in (in_samples, in_reference)]
    changes = weights[0] @ found.of_a + weights[1] @ found.of_b
    changes[0] = 0
    return {"frechet": found.distance + changes}


def _kernel(samples: Rows, reference: Rows, in_samples: Kept, in_reference: Kept) -> Values:
    return {"kernel": squared_mmd(samples, reference, in_samples, in_reference)}


def _neighbours(samples: Rows, reference: Rows, in_samples: Kept, in_reference: Kept) -> Values:
    """Precision, recall, density and coverage: distances are computed once for all halves."""
    of_samples, of_reference = (nearest(x, x, NEAR) for x in (samples, reference))
    across = np.concatenate(list(distances(samples, reference)))
    few, more = precision_recall.NEIGHBOURS, density_coverage.NEIGHBOURS
    rows = []
    for a, b in zip(in_samples, in_reference, strict=True):
        squared = across[np.ix_(a, b)]
        near = covers(squared, radii(of_reference, more, b)[None])
        rows.append(
            (
                covers(squared, radii(of_reference, few, b)[None]).any(axis=1).mean(),
                covers(squared, radii(of_samples, few, a)[:, None]).any(axis=0).mean(),
                near.sum() / (more * len(near)),
                near.any(axis=0).mean(),
            )
        )
    names = ("precision", "recall", "density", "coverage")
    return dict(zip(names, np.array(rows).T, strict=True))


FIGURES: dict[str, Callable[[Rows, Rows, Kept, Kept], Values]] = {
    "frechet": _frechet,
    "kernel": _kernel,
    "neighbours": _neighbours,
}
BOUNDS = {
    "frechet": (0, math.inf),
    "kernel": (-math.inf, math.inf),
    "precision": (0, 1),
    "recall": (0, 1),
    "density": (0, math.inf),
    "coverage": (0, 1),
}

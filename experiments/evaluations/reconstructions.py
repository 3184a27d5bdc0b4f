"""How near a first stage's images come to the held-out images that it was given."""

import pathlib
from typing import Any

import numpy as np

from diffjax import runs
from diffjax.errors import UserError
from diffjax.metrics.comparison import compare
from diffjax.metrics.extractors import make_features
from diffjax.metrics.reconstruction import reconstruction_figures
from diffjax.runs import Run
from diffjax.tasks.autoencoder import Autoencoding
from diffjax.tasks.base import params_of
from experiments.evaluations import drawn, held_out
from experiments.evaluations.held_out import BATCH_SIZE, SEED
from experiments.evaluations.saved import save
from experiments.flags import kinds

FEATURES = kinds.define_path(
    "features", None,
    "reconstruction: a file of AlexNet or VGG16 for LPIPS, or a run of experiments.classifier",
)  # fmt: skip
OWN = (FEATURES,)


def tell_reconstructions(run: Run[Autoencoding], path: pathlib.Path) -> None:
    """Measures, saves and prints the figures of up to --num held-out images.

    With an extractor its figures are those of one half decoded, and of that half as it is, both
    beside the other half. Raises UserError for --figures without an extractor.
    """
    extractor = drawn.chosen_extractor()
    if extractor is None and drawn.CHOSEN.present:
        raise UserError("--figures does nothing without --extractor")
    features = None
    if FEATURES.value is not None:
        features = runs.load_source(runs.features_of(FEATURES.value))
    images: np.ndarray = held_out.of_run(run.config, ("image",))["image"]
    size = min(BATCH_SIZE.value, len(images))
    outcome = run.task.tried(params_of(run.components), images, SEED.value, features, size)
    own = {name: {"value": value} for name, value in run.task.figures(outcome).items()}
    found: dict[str, Any] = {
        **own,
        **{
            name: {"value": figure.value, "low": figure.interval.low, "high": figure.interval.high}
            for name, figure in reconstruction_figures(outcome.errors, SEED.value).items()
        },
    }
    if extractor is not None:
        look, middle = make_features(extractor, size), len(images) // 2
        sides = outcome.decoded[middle:], images[:middle], images[middle:]
        told = compare(*map(look, sides), figures=drawn.CHOSEN.value, seed=SEED.value)
        found["features"] = told
    about = {
        "num": len(images), "step": run.step, "seed": SEED.value, "perceptual_in": FEATURES.value,
    }  # fmt: skip
    saved = save(path, {"reconstruction": {**about, **found}})
    for line in lines(found):
        print(line)
    print(f"{len(images)} held-out images, step {run.step}, {saved}")


def lines(found: dict[str, Any]) -> list[str]:
    """A line per figure, with its interval where there is one."""
    rows = []
    features: dict[str, Any] = found.get("features", {"samples": {}})
    for name, figure in found.items():
        if name != "features":
            ends = f"{figure['low']:>10.4g}{figure['high']:>10.4g}" if "low" in figure else ""
            rows.append(f"{name:<16}{figure['value']:>10.4g}{ends}")
    for name, figure in features["samples"].items():
        real = features["real"][name]["value"]
        rows.append(f"{name:<16}{figure['value']:>10.4g}, real images {real:.4g}")
    return rows

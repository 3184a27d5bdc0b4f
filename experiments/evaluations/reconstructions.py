"""How near a first stage's images come to the held-out images that it was given."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float

from diffjax import runs
from diffjax.metrics.comparison import compare
from diffjax.metrics.extractors import make_features
from diffjax.metrics.reconstruction import make_errors, reconstruction_figures
from diffjax.runs import Run
from diffjax.tasks.autoencoder import Autoencoding, decode, distance_in, encode
from diffjax.tasks.denoisers import AUTOENCODER
from diffjax.typing import Images, Params
from experiments.evaluations import drawn, held_out
from experiments.evaluations.held_out import BATCH_SIZE, SEED
from experiments.evaluations.saved import save
from experiments.flags import kinds

LPIPS = kinds.define_path(
    "lpips", None, "reconstruction: a file of AlexNet or VGG16, or a run of experiments.classifier"
)
OWN = (LPIPS,)


def tell_reconstructions(run: Run[Autoencoding], path: pathlib.Path) -> None:
    """Measures, saves and prints the figures of up to --num held-out images.

    With an extractor the Fréchet distance is that of one half decoded from the other half as it
    is, beside the two halves as they are.
    """
    extractor = drawn.chosen_extractor()
    images = _held_out(run)
    stage, model = run[AUTOENCODER], run.task.model

    def reconstruct(params: Params, rows: Images) -> Images:
        return decode(model, params, encode(model, params, rows)[0])

    features = None if LPIPS.value is None else runs.load_source(runs.features_of(LPIPS.value))
    far = None if features is None else distance_in(features.model)
    errors = make_errors(reconstruct, BATCH_SIZE.value, far)(
        stage.params, None if features is None else features.params, images
    )
    found: dict[str, Any] = {
        name: {"value": figure.value, "low": figure.interval.low, "high": figure.interval.high}
        for name, figure in reconstruction_figures(errors, SEED.value).items()
    }
    outcome = run.task.tried(
        {name: component.params for name, component in run.components.items()}, images, SEED.value
    )
    own = run.task.figures(outcome, images)
    codes = ("bits_per_dim", "latents_bits", "usage", "perplexity")
    found |= {name: {"value": own[name]} for name in codes if name in own}
    if extractor is not None:
        look, middle = make_features(extractor, BATCH_SIZE.value), len(images) // 2
        sides = outcome.decoded[middle:], images[:middle], images[middle:]
        told = compare(*map(look, sides), figures=drawn.CHOSEN.value, seed=SEED.value)
        found["features"] = told
    about = {"num": len(images), "step": run.step, "seed": SEED.value, "lpips": LPIPS.value}
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


def _held_out(run: Run[Any]) -> Float[np.ndarray, "N H W C"]:
    images: np.ndarray = held_out.of_run(run.config, ("image",))["image"]
    return images

"""How other projects train a denoiser, each written from what the project documents."""

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

OURS = "diffjax"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    noise: the options of diffusers' DDPMScheduler, or "sigmoid", a schedule that it lacks. rate:
    the share of the highest learning rate after so many steps, at this share of the time. decay:
    how much of the averaged weights is kept after so many steps. weight: of the loss, from the
    ratio of signal and noise.
    """

    adam: dict[str, Any]
    noise: dict[str, Any]
    batch: int
    rate: Callable[[int, float], float]
    decay: Callable[[int], float]
    weight: Callable[[Any], Any]


def _falling(step: int, share: float) -> float:
    """500 steps up, and then half a cosine down over the rest of the time."""
    return min((step + 1) / 500, (1 + math.cos(math.pi * share)) / 2)


def _lucidrains_decay(step: int) -> float:
    """ema_pytorch: the weights themselves for 100 steps, then every tenth step up to 0.995."""
    if step <= 100:
        return 0.0
    return min(0.995, 1 - (step - 100) ** (-2 / 3)) if step % 10 == 0 else 1.0


RECIPES = {
    # examples/unconditional_image_generation: the command of its README, and its defaults.
    "diffusers": Recipe(
        {"lr": 1e-4, "betas": (0.95, 0.999), "weight_decay": 1e-6, "eps": 1e-8},
        {"beta_schedule": "linear"},
        16,
        _falling,
        lambda step: min(0.9999, 1 - (1 + step) ** -0.75),
        lambda snr: 1.0,
    ),
    # The Trainer of its README, and the defaults of GaussianDiffusion: v weighted
    # as the error of eps, a sigmoid schedule, a constant rate, two batches of 32 a step.
    "denoising-diffusion-pytorch": Recipe(
        {"lr": 8e-5, "betas": (0.9, 0.99), "weight_decay": 0.0},
        {"beta_schedule": "sigmoid", "prediction_type": "v_prediction"},
        64,
        lambda step, share: 1.0,
        _lucidrains_decay,
        lambda snr: snr / (snr + 1),
    ),
}


def noise_of(recipe: Recipe) -> dict[str, Any]:
    """The options of a scheduler of diffusers, with betas where it lacks the schedule."""
    options = dict(recipe.noise)
    if options["beta_schedule"] == "sigmoid":
        del options["beta_schedule"]
        # Jabri et al. 2022 with start -3, end 3, tau 1.
        t = np.linspace(0, 1, 1001)
        low, high = (1 / (1 + np.exp(-x)) for x in (-3, 3))
        alpha_bar = (high - 1 / (1 + np.exp(3 - 6 * t))) / (high - low)
        options["trained_betas"] = np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, 0.999)
    return options


def medians(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The Fréchet distance of each side, the median over seeds."""
    sides = dict.fromkeys(row["side"] for row in rows)
    return {
        side: statistics.median(row["frechet"] for row in rows if row["side"] == side)
        for side in sides
    }


def share(rows: list[dict[str, Any]]) -> float:
    """Our distance over that of the nearest other one."""
    distances = medians(rows)
    return distances.pop(OURS) / min(distances.values())

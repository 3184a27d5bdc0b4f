"""The pictures that a run draws while it is trained."""

from collections.abc import Callable

import numpy as np
from flax import linen as nn

from diffjax.display.images import save_film, save_grid
from diffjax.generate import generate, make_draw, times_of
from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.spacings.base import Spacing
from diffjax.training.run import RunConfig, RunFolder
from diffjax.typing import Params


def make_picture(
    run: RunFolder,
    config: RunConfig,
    model: nn.Module,
    process: Process,
    sampler: Sampler,
    spacing: Spacing,
    *,
    steps: int,
    num: int,
    seed: int,
) -> Callable[[int, Params], None]:
    """A function that draws the same noise with the weights it is given: a grid and a film."""
    labels = None if config.num_classes is None else np.arange(num) % config.num_classes
    draw = make_draw(model, process, sampler, config.image_shape)

    def picture(step: int, params: Params) -> None:
        times = times_of(process, params, spacing, steps)
        images, film = generate(draw, params, seed, num, num, times, labels)
        save_grid(run.samples / f"step_{step:08d}.png", images)
        save_film(run.film, film)

    return picture

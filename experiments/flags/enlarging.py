"""Images made larger by a run of experiments.upscaler, for experiments.sample."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int
from PIL import Image

from diffjax.conditions.base import rows_of
from diffjax.data.images import to_uint8
from diffjax.generate import UNGUIDED, Draw
from diffjax.guidance.plan import Guidance
from diffjax.tasks.upscaling import check_unguided
from diffjax.typing import Images, Keys, Params
from experiments.flags.making import Making, Pixels, Wanted, rows_sheet


@dataclasses.dataclass(frozen=True)
class Enlarging(Making):
    """Images to make larger, in [-1, 1]; noise: the standard deviation of what is added to them."""

    pictures: Float32[np.ndarray, "P h w C"]
    noise: float

    @property
    def num(self) -> int:
        return len(self.pictures)

    def labels(self, num: int) -> Sequence[Any]:
        """The images themselves."""
        return [self.pictures[i % len(self.pictures)] for i in range(num)]

    def draw(self, wanted: Wanted) -> tuple[Draw, Float[Array, "S"]]:
        check_unguided(wanted.chosen.guidance)
        cond = wanted.chosen.cond._replace(noise=jnp.full(wanted.num, self.noise))
        drawn = wanted.run.task.draw_with(wanted.sampler, wanted.batch_size)

        def draw(
            params: Params, keys: Keys, numbers: Int[Array, "B"], times: Float[Array, "T"],
            guidance: Guidance = UNGUIDED,
        ) -> tuple[Images, Float[Array, "..."]]:  # fmt: skip
            return drawn(params, keys, rows_of(cond, numbers), times, guidance)

        return draw, wanted.times

    def sheet(self, made: Pixels) -> Image.Image:
        """A row for each image: it, as large as what is made of it, and that."""
        factor = made.shape[1] // self.pictures.shape[1]
        large = to_uint8(self.pictures).repeat(factor, axis=1).repeat(factor, axis=2)
        return rows_sheet([large], made)

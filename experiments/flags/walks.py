"""Images by way of noises: between pictures, and along a direction, for experiments.sample."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int
from PIL import Image

from diffjax.conditions.base import rows_of
from diffjax.data.images import to_uint8
from diffjax.display.images import grid
from diffjax.editing.interpolation import FromNoise, slerp
from diffjax.errors import UserError
from diffjax.generate import Draw
from diffjax.randomness import sample_keys
from diffjax.samplers.base import first_noise
from diffjax.tasks.denoisers import DENOISER
from diffjax.tasks.tracing import noise_of
from diffjax.typing import Cond, Images
from experiments.flags import guiding
from experiments.flags.making import Making, Pixels, Wanted, edit_draw

BETWEEN = 8  # images of two neighbours, by default
STRENGTHS, ROWS = (0.0, 0.5, 1.0, 1.5, 2.0), 4  # along a direction, and of fresh noise, by default


@dataclasses.dataclass(frozen=True)
class Walk(Making):
    """Images to walk between, each to the next, with their x0.

    classes: those that they are of; None where the run knows none.
    """

    pictures: Float32[np.ndarray, "P H W C"]
    x0: Float32[np.ndarray, "P h w c"]
    classes: Int[np.ndarray, "P"] | None

    def told(self, names: Sequence[str]) -> str:
        return guiding.taken_for(self.classes, names)

    @property
    def num(self) -> int:
        return BETWEEN * (len(self.pictures) - 1)

    def _shares(self, num: int) -> tuple[Int[np.ndarray, "N"], Float32[np.ndarray, "N"]]:
        """Of each image that is made, the picture it comes after, and how far it is to the next."""
        pairs = len(self.pictures) - 1
        if num % pairs or num < 2 * pairs:
            raise UserError(
                f"--num={num}: give a multiple of {pairs}, the pairs of neighbours, and 2 a pair "
                "at least"
            )
        after = np.repeat(np.arange(pairs), num // pairs)
        return after, np.tile(np.linspace(0, 1, num // pairs, dtype=np.float32), pairs)

    def labels(self, num: int) -> Sequence[Any] | None:
        after, share = self._shares(num)
        return None if self.classes is None else self.classes[after + (share > 0.5)].tolist()

    def draw(self, wanted: Wanted) -> tuple[Draw, Float[Array, "S"]]:
        after, share = self._shares(wanted.num)
        classes = None if self.classes is None else self.classes.tolist()
        cond = wanted.run.task.condition.asked(classes, len(self.x0))
        ends = inverted(wanted, self.x0, cond)
        noise = slerp(ends[after], ends[after + 1], jnp.asarray(share))
        return edit_draw(wanted, FromNoise(wanted.sampler, noise)), wanted.times

    def sheet(self, made: Pixels) -> Image.Image:
        """A row for each pair: the one, the images that lead from it to the other, and that."""
        pictures = to_uint8(self.pictures)
        results = made.reshape(len(pictures) - 1, -1, *made.shape[1:])
        cells = np.concatenate([pictures[:-1, None], results, pictures[1:, None]], axis=1)
        return grid(cells.reshape(-1, *made.shape[1:]), cells.shape[1])


@dataclasses.dataclass(frozen=True)
class Direction(Making):
    """From one condition to another, each picture or each noise at all strengths.

    Strength s is guidance of scale s away from the first condition: 0 gives the first condition and
    1 the other. x0: of the pictures; None for fresh noise.
    """

    pictures: Float32[np.ndarray, "P H W C"] | None
    x0: Float32[np.ndarray, "P h w c"] | None
    strengths: Sequence[float]

    def told(self, names: Sequence[str]) -> str:
        return ", at strengths " + ", ".join(f"{value:g}" for value in self.strengths)

    @property
    def num(self) -> int:
        rows = ROWS if self.pictures is None else len(self.pictures)
        return rows * len(self.strengths)

    def scales(self, num: int) -> Sequence[float]:
        columns = len(self.strengths)
        if num % columns or (self.pictures is not None and num != self.num):
            raise UserError(
                f"--num={num}: give {self.num}, or without --init another multiple of {columns}, "
                "the strengths"
            )
        return [*self.strengths] * (num // columns)

    def draw(self, wanted: Wanted) -> tuple[Draw, Float[Array, "S"]]:
        each = jnp.repeat(self._noise(wanted), len(self.strengths), axis=0)
        return edit_draw(wanted, FromNoise(wanted.sampler, each)), wanted.times

    def _noise(self, wanted: Wanted) -> Images:
        """The noise of each row: of a picture, as the first condition has it."""
        task, away = wanted.run.task, wanted.chosen.guidance.away
        if self.x0 is not None:
            assert away is not None
            return inverted(wanted, self.x0, rows_of(away.cond, slice(len(self.x0))))
        schedule = task.process.bind(wanted.run[DENOISER].params).schedule
        rows = wanted.num // len(self.strengths)
        keys = sample_keys(jax.random.key(wanted.seed), 0, rows)
        return first_noise(schedule, keys, task.shape, wanted.times[0])

    def sheet(self, made: Pixels) -> Image.Image:
        """A row for each picture or noise, a column for each strength."""
        columns = len(self.strengths)
        if self.pictures is None:
            return grid(made, columns)
        cells = made.reshape(-1, columns, *made.shape[1:])
        cells = np.concatenate([to_uint8(self.pictures)[:, None], cells], axis=1)
        return grid(cells.reshape(-1, *made.shape[1:]), columns + 1)


def inverted(wanted: Wanted, x0: Float32[np.ndarray, "P h w c"], cond: Cond) -> Images:
    """The noises of x0, without guidance, under which DDIM's way up strays.

    Raises UserError for a sampler that does not lead back from them.
    """
    run = wanted.run
    FromNoise(wanted.sampler, jnp.asarray(x0)).check(run.task.process)
    return jnp.asarray(noise_of(run.task, run.components, x0, cond, wanted.times))

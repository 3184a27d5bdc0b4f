"""Images by way of noises: from each picture to the next, for experiments.sample."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int
from PIL import Image

from diffjax.data.images import to_uint8
from diffjax.display.images import grid
from diffjax.editing.interpolation import FromNoise, invert, slerp
from diffjax.errors import UserError
from diffjax.generate import Draw
from diffjax.guidance.thresholds import clip_x0
from diffjax.runs import Run
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.typing import Cond, Images, Params
from experiments.flags.making import Making, Pixels, Wanted, edit_draw, taken_for

BETWEEN = 8  # images of two neighbours, by default


@dataclasses.dataclass(frozen=True)
class Walk(Making):
    """Images to walk between, each to the next, with their x0.

    classes: those that they are of; None where the run knows none.
    """

    pictures: Float32[np.ndarray, "P H W C"]
    x0: Float32[np.ndarray, "P h w c"]
    classes: Int[np.ndarray, "P"] | None

    def told(self, names: Sequence[str]) -> str:
        return taken_for(self.classes, names)

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
        FromNoise(wanted.sampler, jnp.asarray(self.x0)).check(wanted.run.task.process)
        after, share = self._shares(wanted.num)
        classes = None if self.classes is None else self.classes.tolist()
        cond = wanted.run.task.condition.asked(classes, len(self.x0))
        ends = inverted(wanted.run, self.x0, cond, wanted.times)
        noise = slerp(ends[after], ends[after + 1], jnp.asarray(share))
        return edit_draw(wanted, FromNoise(wanted.sampler, noise)), wanted.times

    def sheet(self, made: Pixels) -> Image.Image:
        """A row for each pair: the one, the images that lead from it to the other, and that."""
        pictures = to_uint8(self.pictures)
        results = made.reshape(len(pictures) - 1, -1, *made.shape[1:])
        cells = np.concatenate([pictures[:-1, None], results, pictures[1:, None]], axis=1)
        return grid(cells.reshape(-1, *made.shape[1:]), cells.shape[1])


def inverted(
    run: Run[DenoiserTask], x0: Float32[np.ndarray, "P h w c"], cond: Cond, times: Float[Array, "T"]
) -> Images:
    """The noises of x0, without guidance, under which DDIM's way up strays."""
    denoiser = run[DENOISER]
    process, limit = run.task.process.bind(denoiser.params), run.task.space.limit

    @jax.jit
    def noises(params: Params, x: Images, cond: Cond) -> Images:
        denoise = process.denoiser(denoiser.model.apply, params, cond)
        if limit is not None:
            denoise = clip_x0(denoise, process.schedule, limit)
        return invert(process.schedule, denoise, x, times)

    return noises(denoiser.params, jnp.asarray(x0), cond)

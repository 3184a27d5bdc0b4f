"""What experiments.sample makes for a --task: how many images, of what, and how they are shown."""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8
from PIL import Image

from diffjax.data.images import to_uint8
from diffjax.display.images import grid
from diffjax.editing.base import Edit
from diffjax.editing.draw import make_edit_draw
from diffjax.generate import Draw
from diffjax.guidance.plan import Guidance
from diffjax.runs import Run
from diffjax.samplers.base import Sampler
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.typing import Cond

Pixels = UInt8[np.ndarray, "N H W C"]


class Chosen(NamedTuple):
    """What the flags ask of a draw: the network's condition, guidance and the weak network."""

    cond: Cond
    guidance: Guidance
    weak: nn.Module | None


class Wanted(NamedTuple):
    """How `num` images are to be drawn; batch_size: at a time."""

    run: Run[DenoiserTask]
    sampler: Sampler
    times: Float[Array, "T"]
    num: int
    chosen: Chosen
    seed: int
    batch_size: int


class Making(abc.ABC):
    """What is made, of images that are given."""

    @property
    @abc.abstractmethod
    def num(self) -> int:
        """How many images are made where no number is given."""

    @abc.abstractmethod
    def draw(self, wanted: Wanted) -> tuple[Draw, Float[Array, "S"]]:
        """What `generate` makes the images with, of their numbers as labels, and the times."""

    @abc.abstractmethod
    def sheet(self, made: Pixels) -> Image.Image:
        """What was made, beside what was given."""

    def labels(self, num: int) -> Sequence[Any] | None:
        """The class of each image that is made; None leaves them to the flags."""
        return None

    def scales(self, num: int) -> Sequence[float] | None:
        """The scale of guidance of each image that is made; None leaves them to the flags."""
        return None

    def finished(self, made: Pixels) -> Pixels:
        """What was made, as it is written."""
        return made

    def told(self, names: Sequence[str]) -> str:
        """What to tell the user of what was not asked for; names: of the classes."""
        return ""


def edit_draw(wanted: Wanted, edit: Edit) -> Draw:
    """The draw of an edit, under what the flags ask for."""
    run, chosen = wanted.run, wanted.chosen
    return make_edit_draw(
        run[DENOISER].model, run.task.process, edit, chosen.cond, limit=run.task.space.limit,
        weak=chosen.weak,
    )  # fmt: skip


def draw_edit(wanted: Wanted, edit: Edit, times: Float[Array, "T"]) -> Pixels:
    """The images that the edit makes down the times."""
    made = wanted.run.task.drawn(
        edit_draw(wanted, edit), wanted.run.components, jax.random.key(wanted.seed), wanted.num,
        wanted.batch_size, times, jnp.arange(wanted.num), wanted.chosen.guidance,
    )  # fmt: skip
    return to_uint8(np.asarray(made.images))


def rows_sheet(given: Sequence[Pixels], made: Pixels) -> Image.Image:
    """A row for each image of `given`, its parts first, then what was made of it in turn."""
    count = len(given[0])
    blank = np.full((-len(made) % count, *made.shape[1:]), 255, np.uint8)
    results = np.concatenate([made, blank]).reshape(-1, count, *made.shape[1:])
    cells = np.stack([*given, *results], axis=1)
    return grid(cells.reshape(-1, *made.shape[1:]), cells.shape[1])

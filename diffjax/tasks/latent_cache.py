"""A first stage's latents of a data set's images: computed once, kept on disk, and measured."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.batches import padded
from diffjax.data import Records
from diffjax.data.bad import Tally
from diffjax.data.base import Record
from diffjax.data.latents import LatentRecords
from diffjax.errors import UserError
from diffjax.spaces.latents import Latents
from diffjax.tasks.base import Component
from diffjax.tasks.denoisers import stage_of
from diffjax.tasks.record_cache import FOLDER, Arrays, CacheFile, images_of, named, read_rows
from diffjax.typing import Images, Params

BATCH = 32  # images at a time
FORM = 1  # of the files: another form has other names
DIGITS = 4  # of scale and shift: another machine's rounding makes no other run
Moments = Float[Array, "B h w m"]


class Scale(NamedTuple):
    """What gives latents mean 0 and variance 1: scale_factor (z - shift_factor)."""

    scale_factor: float
    shift_factor: float


@dataclasses.dataclass(frozen=True)
class LatentCache:
    """Latents of `records`, a training split, by a first stage with the `digest`.

    data: what the records are, as texts. folder: where the file is kept. The file is named by the
    weights, the network, the data and their number. Raises UserError for images of another form
    than the first stage takes.
    """

    records: Records
    stage: Component
    digest: str
    data: Sequence[str]
    folder: pathlib.Path = FOLDER
    max_bad_records: int = 0
    say: Callable[[str], object] = print

    def __post_init__(self) -> None:
        self.shape  # noqa: B018 - refuses what does not go together

    @property
    def shape(self) -> tuple[int, int, int]:
        """The latents' height, width and channels."""
        return latent_shape(self.stage, self.records.image_shape)

    @property
    def path(self) -> pathlib.Path:
        """The file of the latents."""
        records = self.records
        return named(self.folder, "latents", [
            FORM, self.digest, self.stage.spec, *self.data, records.image_shape, len(records),
        ])  # fmt: skip

    def load(self) -> LatentRecords:
        """The records with their latents, computed where there is no sound file of them.

        Raises UserError where they cannot be computed or written.
        """
        return CacheFile(self.path, "latents", self.records, _seen, self.say).load(
            self._checked, self._compute
        )

    def _checked(self, values: Arrays) -> LatentRecords:
        """Raises ValueError or KeyError for what are no latents of these records."""
        count, (height, width, channels) = len(self.records), self.shape
        moments, good = values.pop("moments"), values.pop("good")
        if moments.shape != (count, height, width, 2 * channels) or good.shape != (count,):
            raise ValueError("its arrays have other shapes")
        return LatentRecords(self.records, moments, good, values)

    def _compute(self) -> Arrays:
        tally, count = Tally(self.max_bad_records), len(self.records)
        found, rows = [], []
        for first, batch in padded(count, min(BATCH, count)):
            read = read_rows(self.records, [int(row) for row in batch], tally)
            kept = read[: count - first]
            images = images_of(read, self.records.image_shape)
            found.append(np.asarray(moments_of(self.stage, images))[: len(kept)])
            rows += [None if row is None else _others(row) for row in kept]
        moments = np.concatenate(found)
        if not np.isfinite(moments).all():
            raise UserError("the first stage computes numbers that are not finite: train it again")
        good = np.asarray([row is not None for row in rows])
        known = next((row for row in rows if row is not None), {})
        others = {
            name: np.stack([(known if row is None else row)[name] for row in rows])
            for name in known
        }
        return {"moments": moments, "good": good, **others}


def latent_shape(stage: Component, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of the latents of images of that shape.

    Raises UserError for images that the first stage does not take.
    """
    height, width, channels = image_shape
    own = getattr(stage.model, "in_channels", channels)
    if own != channels:
        raise UserError(
            f"the first stage takes images of {own} channels, and these have {channels}: choose "
            "another data set, or train another first stage",
            option="dataset",
        )
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    mean, _ = jax.eval_shape(
        lambda params, images: stage_of(stage.model, params).encode(images), stage.params, images
    )
    _, h, w, latents = mean.shape
    if h * (height // h) != height or w * (height // h) != width:
        raise UserError(
            f"images of {height}x{width} have no whole number of latents, {h}x{w}: resize them to "
            f"a multiple of {round(height / h)}",
            option="image_size",
        )
    return h, w, latents


def space_of(records: LatentRecords, scale: Scale, shape: tuple[int, int, int]) -> Latents:
    """The space that diffusion in the records' latents happens in."""
    return Latents(shape[2], records.image_shape[0] // shape[0], *scale)


def measured(records: LatentRecords) -> Scale:
    """The scale and shift that give all numbers of latents mean 0 and variance 1 together.

    Latents are drawn, so the posterior's variance counts too (Rombach et al. 2022, appendix G).
    """
    mean, log_variance = np.split(records.moments[records.good].astype(np.float64), 2, axis=-1)
    variance = mean.var() + np.exp(log_variance).mean()
    return Scale(*(float(f"{x:.{DIGITS}g}") for x in (1 / math.sqrt(variance), mean.mean())))


def moments_of(stage: Component, images: Any) -> Moments:
    """Mean and log-variance of images' latents, one after the other along the channels."""
    return _compiled(stage.model, stage.params, jnp.asarray(images))


@functools.partial(jax.jit, static_argnums=0)
def _compiled(model: Any, params: Params, images: Images) -> Moments:
    return jnp.concatenate(stage_of(model, params).encode(images), axis=-1)


def _others(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "image"}


def _seen(record: Record) -> bytes:
    others = sorted(_others(record).items())
    return np.ascontiguousarray(record["image"]).tobytes() + repr(others).encode(
        errors="surrogatepass"
    )

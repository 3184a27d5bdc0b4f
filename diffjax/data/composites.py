"""Things on textured backgrounds, with the exact map of what each pixel is: made of another set."""

import dataclasses

import numpy as np
from PIL import Image

import diffjax.data
from diffjax import spec
from diffjax.data import images
from diffjax.data.base import Dataset, Record, Records, Split
from diffjax.data.contents import Contents
from diffjax.data.skipping import Skipping
from diffjax.errors import UserError

__all__ = ["Composites"]

THING, CANVAS = 7, 12  # the side of a thing's own picture over that of the composite: 28 of 48
DARK = 16 / 127.5 - 1  # what is darker in a thing's own picture is no part of it
LOOKED_AT, LEAST_DARK = 16, 0.2  # pictures that must have so much around things
SPLITS = {"train": 0, "test": 1}


@dataclasses.dataclass(frozen=True)
class Composites:
    """One or two things each of the labelled set `of`, a spec, whose own pictures are on black.

    Thing i is in front of record i, which has its class as `label`; half of the records have
    another behind it. Texture, distracting shapes, brightness and noise follow from the index and
    `seed` alone. `mask` (int32, HW) is 0 for what is no thing, else 1 + its class: exactly, since
    things are cut out along it. No brightness tells a thing from a background.
    """

    of: str = "embedded"
    seed: int = 0
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"composites(seed={self.seed}): seed must be from 0 to {2**32 - 1}")

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`; with no size a record is 12/7 as large as its things."""
        dataset: Dataset = spec.build(self.of, diffjax.data, {"data_dir": self.data_dir})
        size = None if image_size is None else max(1, -(-image_size * THING // CANVAS))
        things = dataset.open(split, size, max_bad_records)
        height, width, channels = things.image_shape
        native = (height * CANVAS // THING, width * CANVAS // THING, channels)
        form = images.shape(native, image_size)
        if things.num_classes is None:
            raise UserError(f"composites(of={self.of!r}): it has no labels, choose another set")
        _check_dark(self.of, things, max_bad_records)
        return _CompositeRecords(things, form, (self.seed, SPLITS[split]))


@dataclasses.dataclass(frozen=True, eq=False)
class _CompositeRecords:
    things: Records
    image_shape: tuple[int, int, int]
    seeds: tuple[int, int]

    @property
    def num_classes(self) -> int | None:
        return self.things.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.things.class_names

    @property
    def contents(self) -> Contents:
        return self.things.contents

    def __len__(self) -> int:
        return len(self.things)

    def __getitem__(self, index: int) -> Record:
        # RandomState, unlike Generator, is promised never to change.
        rng = np.random.RandomState((*self.seeds, index))
        front = self.things[index]
        things = [front] if rng.rand() < 0.5 else [self.things[rng.randint(len(self))], front]
        image = _background(rng, self.image_shape)
        mask = np.zeros(image.shape[:2], np.int32)
        for thing in things:
            _paste(rng, image, mask, thing)
        image += rng.uniform(0, 0.15) * rng.standard_normal(image.shape)
        image = image.clip(-1, 1).astype(np.float32)
        return {"image": image, "label": front["label"], "mask": mask}


def _paste(rng: np.random.RandomState, image: np.ndarray, mask: np.ndarray, thing: Record) -> None:
    """Puts the thing somewhere, at a brightness of its own; an eighth of it may lie outside."""
    pixels = thing["image"]
    part = (pixels > DARK).any(-1)
    low = rng.uniform(-1, 0)
    high = rng.uniform(low + 0.6, 1)
    rows, columns = np.nonzero(part)
    values = low + (pixels[rows, columns] + 1) / 2 * (high - low)
    for places, size, whole in zip((rows, columns), part.shape, mask.shape, strict=True):
        places += rng.randint(-(size // 8), whole - size + size // 8 + 1)
    inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
    rows, columns = rows[inside], columns[inside]
    image[rows, columns] = values[inside]
    mask[rows, columns] = 1 + thing["label"]


def _background(rng: np.random.RandomState, shape: tuple[int, int, int]) -> np.ndarray:
    """A texture with one to three shapes of other textures on it."""
    image = _texture(rng, shape)
    for _ in range(rng.randint(1, 4)):
        inside = _shape(rng, *shape[:2])
        image[inside] = _texture(rng, shape)[inside]
    return image


def _texture(rng: np.random.RandomState, shape: tuple[int, int, int]) -> np.ndarray:
    """Waves, clouds or cells, about a brightness."""
    height, width, channels = shape
    count = rng.randint(3, 9)
    coarse = rng.uniform(-1, 1, (count, count)).astype(np.float32)
    kind = rng.randint(3)
    if kind == 0:
        angle, period = rng.uniform(0, np.pi), rng.uniform(1 / 12, 1 / 3) * max(height, width)
        u, v = _turned(angle, np.arange(height)[:, None], np.arange(width))
        pattern = np.sin(2 * np.pi * u / period)
        if rng.rand() < 0.5:
            pattern = pattern * np.sin(2 * np.pi * v / period)
    else:
        way = Image.Resampling.BICUBIC if kind == 1 else Image.Resampling.NEAREST
        pattern = np.asarray(Image.fromarray(coarse).resize((width, height), way))
    level = rng.uniform(-0.7, 0.7, channels)
    return level + rng.uniform(0.1, 0.6) * pattern[..., None]


def _shape(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Which pixels an ellipse or a rectangle covers, somewhere and at some angle."""
    y = np.arange(height)[:, None] - rng.uniform(0, height)
    x = np.arange(width) - rng.uniform(0, width)
    a, b = rng.uniform(1 / 10, 1 / 3, 2) * max(height, width)
    u, v = _turned(rng.uniform(0, np.pi), y, x)
    if rng.rand() < 0.5:
        return (u / a) ** 2 + (v / b) ** 2 < 1
    return (abs(u) < a) & (abs(v) < b)


def _turned(angle: float, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _check_dark(name: str, things: Records, max_bad_records: int) -> None:
    """Raises UserError for pictures that have next to no black, or things could not be cut out."""
    indices = np.linspace(0, len(things) - 1, min(LOOKED_AT, len(things))).astype(int)
    looked_at = Skipping(things, max_bad_records)(indices.tolist())
    dark = np.mean([(record["image"] <= DARK).all(-1).mean() for record in looked_at])
    if dark < LEAST_DARK:
        raise UserError(
            f"composites(of={name!r}): {dark:.0%} of its pixels are black, where things on black "
            "are needed to cut out: choose another set"
        )

"""The contract of a data set, and what several of them share.

A data set is a frozen dataclass in a module of its own. Opening it gives one of two splits, which
never share a record.
"""

import dataclasses
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from diffjax.data import images
from diffjax.errors import UserError

Split = Literal["train", "test"]
Record = dict[str, Any]
HELD_OUT = 10  # where a set has no test split of its own, one record in so many


@runtime_checkable
class Records(Protocol):
    """Random access to records, safe to read from several threads.

    A record has `image`, float32 HWC in [-1, 1], and those of `label` (np.int32) and `text` (str)
    that the set has. Where reading many at once is faster, there is `__getitems__(indices)` too.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""

    @property
    def num_classes(self) -> int | None:
        """Labels lie below it; None without labels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label; empty where unknown."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Dataset(Protocol):
    """What a spec such as `folder(path='...')` builds."""

    def open(self, split: Split, image_size: int | None) -> Records:
        """The records of a split, cropped and resized to a square where a size is given.

        Raises UserError for data that is missing, damaged or of no use.
        """


def held_out(count: int, split: Split, where: str) -> np.ndarray:
    """Indices of a split of `count` sorted records: every tenth is for testing, from the first.

    Raises UserError, which names the set as `where`, for a split without a record.
    """
    test = np.arange(count) % HELD_OUT == 0
    indices = np.flatnonzero(test if split == "test" else ~test)
    if not indices.size:
        raise UserError(
            f"{where} has too few images ({count}) to leave one for the {split} split: "
            f"one in {HELD_OUT} is held out for testing; add some"
        )
    return indices


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayRecords:
    """Labelled uint8 NHWC images in memory, given out in the form `image_shape`."""

    pixels: np.ndarray
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Record:
        image = images.from_array(self.pixels[index], self.image_shape)
        return {"image": image, "label": np.int32(self.labels[index])}

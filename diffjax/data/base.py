"""The contract of a data set, and what several of them share.

A data set is a frozen dataclass in a module of its own. Opening it gives one of two splits, which
share no record, unless that is what the set is for (`everything`).
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from diffjax.data import images
from diffjax.data.contents import Contents
from diffjax.errors import UserError

Split = Literal["train", "test"]
Record = dict[str, Any]
ARCHIVES = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst")
HELD_OUT = 10  # where a set has no test split of its own, one record in so many


@runtime_checkable
class Records(Protocol):
    """Random access to records, safe to read from several threads.

    A record has `image`, float32 HWC in [-1, 1], and those of `label` (np.int32), `mask` (int32 HW,
    what each pixel is part of) and `text` (str) that the set has. Where reading many at once is
    faster, there is `__getitems__(indices)` too.
    Both raise BadRecord for a record that is damaged by itself, UserError for other faults.
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

    @property
    def contents(self) -> Contents:
        """What the whole data set holds, as far as it is known."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Dataset(Protocol):
    """What a spec such as `folder(path='...')` builds."""

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """The records of a split, cropped and resized to a square where a size is given.

        Raises UserError for data that is missing or of no use, and for more damaged records in it
        than `max_bad_records`, as far as opening finds them. Those let pass keep their index, so
        that no other record moves; reading one raises BadRecord.
        """


def local_folder(path: str, option: str, files: str = "") -> pathlib.Path:
    """The path of a folder, which may not be there, with the user's home folder filled in.

    It may be a file with the suffix `files` where that is given. Raises UserError, which names the
    option, for a bucket or URL, an archive, and any other file.
    """
    if re.match("[A-Za-z][A-Za-z0-9+.-]*://", path):
        raise UserError(
            f"{option}={path!r} is not on this machine: copy it to a disk, or mount the bucket "
            "with gcsfuse, and give that folder"
        )
    folder = pathlib.Path(os.path.expanduser(path))
    if os.path.isfile(folder) and not (files and folder.name.lower().endswith(files)):
        is_archive = folder.name.lower().endswith(ARCHIVES)
        raise UserError(
            f"{option}={str(folder)!r} is an archive: unpack it first, and give the folder"
            if is_archive
            else f"{option}={str(folder)!r} is a file: give the folder that it lies in"
        )
    return folder


def split_up(labels: Sequence[int] | np.ndarray) -> dict[Split, np.ndarray]:
    """The indices of each split of records with these labels, equal ones where there are none.

    Of each class every tenth record is for testing, from the first; the only one of a class is for
    training, or the class would be there and never learnt.
    """
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    _, firsts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(firsts, sizes)
    test = np.zeros(len(labels), bool)
    test[order] = (place % HELD_OUT == 0) & (np.repeat(sizes, sizes) > 1)
    return {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}


def check_any(chosen: Sequence[Any] | np.ndarray, split: Split, count: int, where: str) -> None:
    """Raises UserError, which names the set as `where`, for a split without a record."""
    if not len(chosen):
        raise UserError(
            f"{where} has too few images ({count}) to leave one for the {split} split: "
            f"one in {HELD_OUT} of a class is held out for testing; add some"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayRecords:
    """Labelled uint8 NHWC images in memory, given out in the form `image_shape`.

    `texts` has one text per image, or none.
    """

    pixels: np.ndarray
    labels: np.ndarray
    image_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] = ()
    contents: Contents = Contents()  # noqa: RUF009 - frozen
    texts: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Record:
        image = images.from_array(self.pixels[index], self.image_shape)
        record = {"image": image, "label": np.int32(self.labels[index])}
        return {**record, "text": self.texts[index]} if self.texts else record

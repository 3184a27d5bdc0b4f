"""A folder of picture files."""

import collections
import dataclasses
import os
import pathlib
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from diffjax.data import images
from diffjax.data.bad import BadRecord, Tally
from diffjax.data.base import Record, Records, Split, check_any, local_folder, split_up
from diffjax.data.contents import Contents, count_classes
from diffjax.errors import UserError

__all__ = ["Folder"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# What a folder of the training and of the test split may be called, the first that is there.
SPLIT_NAMES = (("train", "training"), ("test", "testing", "val", "valid", "validation"))
DECODED_ON_OPEN = 1000


@dataclasses.dataclass(frozen=True)
class Folder:
    """Pictures in `path`; where it has subfolders, each is a class, with all that lies in it.

    Classes are in natural order, `2` before `10`. Subfolders `train` and `test` (or `val`) are the
    splits and hold the classes; without them every tenth picture of a class is held out. What a
    picture is, its content says. Grey where all pictures are, else in colour. Names that start with
    a dot are left out.
    """

    path: str

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`: reads all headers, and decodes the first 1,000 files.

        Damaged files count in whichever split they are. Links out of the folder, special files and
        decompression bombs are refused, however many may be bad.
        """
        root = local_folder(self.path, "path")
        if not os.path.isdir(root):
            raise UserError(f"no folder {str(root)!r}: folder(path=...) is one with images")
        files, passed_over = _find(root)
        splits = _split_folders(root, files)
        depth = int(bool(splits))
        inside = [file for file in files if not splits or file.parts[0] in splits.values()]
        if outside := len(files) - len(inside):
            names = " and ".join(f"{name}/" for name in splits.values())
            passed_over[f"outside {names}"] = outside
        files = inside
        class_names = _class_names(root, files, depth)
        numbers = {name: label for label, name in enumerate(class_names)}
        labels = np.asarray([numbers[f.parts[depth]] if numbers else 0 for f in files], np.int32)
        if len(splits) == 2:
            own = np.asarray([file.parts[0] for file in files])
            parts = {name: np.flatnonzero(own == folder) for name, folder in splits.items()}
            if not len(parts[split]):
                raise UserError(f"no images in {str(root / splits[split])!r}: put some there")
        else:
            parts = split_up(labels)
            check_any(parts[split], split, len(files), repr(str(root)))
        headers = _headers([root / file for file in files], max_bad_records)
        if len(headers) < len(files):
            passed_over["damaged"] = len(files) - len(headers)
        contents = count_classes(labels[parts["train"]], labels[parts["test"]], len(class_names))
        return _FolderRecords(
            [root / files[index] for index in parts[split]],
            labels[parts[split]] if class_names else (),
            _shape(headers, image_size),
            class_names,
            dataclasses.replace(contents, passed_over=passed_over),
        )


@dataclasses.dataclass(frozen=True)
class _FolderRecords:
    paths: Sequence[pathlib.Path]
    labels: Sequence[np.int32] | np.ndarray  # empty without classes
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    contents: Contents

    @property
    def num_classes(self) -> int | None:
        return len(self.class_names) or None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        height, width, _ = self.image_shape
        with _picture(self.paths[index]) as image:
            # JPEGs are decoded at a half, quarter or eighth, if still twice as large as needed.
            image.draft(None, (2 * max(height, width),) * 2)
            turned = ImageOps.exif_transpose(image)
            record: Record = {"image": images.from_image(turned, self.image_shape)}
        if len(self.labels):
            record["label"] = self.labels[index]
        return record


def _find(root: pathlib.Path) -> tuple[list[pathlib.Path], dict[str, int]]:
    """The picture files below `root`, relative to it, by name; and what else is there."""

    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read folder {error.filename!r}: {error.strerror}") from error

    inside = os.path.realpath(root)
    found: list[pathlib.Path] = []
    passed_over = collections.Counter[str]()
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        passed_over["hidden"] += sum(name.startswith(".") for name in subfolders + names)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        before = len(found)
        for name in subfolders:
            _check_kind(pathlib.Path(folder, name), root, inside)
        for path in (pathlib.Path(folder, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                _check_kind(path, root, inside)
            elif not is_picture(path):
                passed_over[f"{path.suffix or 'other'} files that hold no picture"] += 1
                continue
            found.append(path.relative_to(root))
        if len(found) == before and not subfolders:
            passed_over["folders without a picture"] += 1
    if not found:
        raise UserError(f"no images in {str(root)!r}: looked for {', '.join(SUFFIXES)}")
    return sorted(found, key=lambda file: file.parts), dict(+passed_over)


def is_picture(path: pathlib.Path) -> bool:
    """Whether a file holds a picture, whatever its name. Links and pipes are not opened."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with _picture(path):
            return True
    except UserError:
        return False


def _split_folders(root: pathlib.Path, files: list[pathlib.Path]) -> dict[Split, str]:
    """The subfolders that are splits; the training split alone where nothing lies beside it."""
    with os.scandir(root) as entries:  # which knows the kind of each of a million without a look
        there = {name.lower(): name for name in sorted(e.name for e in entries if e.is_dir())}
    train, test = (next((there[n] for n in names if n in there), None) for names in SPLIT_NAMES)
    if train and test:
        return {"train": train, "test": test}
    if train and all(file.parts[0] == train and len(file.parts) > 1 for file in files):
        return {"train": train}
    return {}


def _check_kind(path: pathlib.Path, root: pathlib.Path, inside: str) -> None:
    """Raises UserError for what could give away other files, be left out unseen, or never end."""
    if path.is_symlink():
        if not pathlib.Path(os.path.realpath(path)).is_relative_to(inside):
            raise UserError(f"{str(path)!r} is a link out of {str(root)!r}: put a copy there")
        if os.path.isdir(path):
            raise UserError(f"{str(path)!r} is a link to a folder: put the folder itself there")
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise UserError(f"{str(path)!r} is a pipe, socket or device and no file: remove it")


def _class_names(root: pathlib.Path, files: list[pathlib.Path], depth: int) -> tuple[str, ...]:
    """The names at `depth` of the paths, in order; none where files are at that depth."""
    names = {file.parts[depth] for file in files if len(file.parts) > depth + 1}
    loose = [file for file in files if len(file.parts) == depth + 1]
    if names and loose:
        raise UserError(
            f"{str(root / loose[0])!r} is in no class folder, but others are "
            f"({', '.join(sorted(names)[:5])}): put all images into class folders, or none"
        )
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> tuple[list[str | int], str]:
    """What to sort by, so that numbers in names come by their value."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


class _Header(NamedTuple):
    path: pathlib.Path
    size: tuple[int, int]  # width and height, after the turn that EXIF asks for
    grey: bool


def _headers(paths: list[pathlib.Path], max_bad_records: int) -> list[_Header]:
    """The headers of all files but the damaged ones."""
    tally = Tally(max_bad_records)
    decode = [index < DECODED_ON_OPEN for index in range(len(paths))]
    headers = []
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for path, header in zip(paths, pool.map(_header, paths, decode), strict=True):
            if isinstance(header, _Header):
                headers.append(header)
            else:
                tally.add(path, header)
    if not headers:
        raise UserError(f"none of the {len(paths)} images can be read: replace the data")
    return headers


def _shape(headers: list[_Header], image_size: int | None) -> tuple[int, int, int]:
    """The form in which all files can be given out."""
    first = headers[0]
    other = next((header for header in headers if header.size != first.size), None)
    if other and image_size is None:
        raise UserError(
            f"images differ in size: {str(first.path)!r} is {first.size[0]}x{first.size[1]} and "
            f"{str(other.path)!r} is {other.size[0]}x{other.size[1]}: give an image_size",
            option="image_size",
        )
    channels = 1 if all(header.grey for header in headers) else 3
    return images.shape((first.size[1], first.size[0], channels), image_size)


def _header(path: pathlib.Path, decode: bool) -> _Header | BadRecord:
    try:
        with _picture(path) as image:
            # getexif would decode the whole of a PNG that has none ahead of its pixels.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            size = image.size if exif.get(ExifTags.Base.Orientation, 1) < 5 else image.size[::-1]
            header = _Header(path, size, images.is_grey(image))
            if decode:
                image.draft(None, (1, 1))  # all of a JPEG is read, but little of it computed
                image.load()
    except BadRecord as error:
        return error
    return header


def _picture(path: pathlib.Path) -> AbstractContextManager[Image.Image]:
    return images.opened(path, f"image {str(path)!r}", "remove it")

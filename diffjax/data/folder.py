"""A folder of picture files."""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from PIL import Image

from diffjax.data import encoded, images
from diffjax.data.base import Record, Records, Split, check_any, local_folder, split_up
from diffjax.data.contents import Contents, count_classes
from diffjax.errors import UserError

__all__ = ["Folder"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# What a folder of the training and of the test split may be called, the first that is there.
SPLIT_NAMES = (("train", "training"), ("test", "testing", "val", "valid", "validation"))


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
        files, passed_over = find(root)
        splits = split_folders(root, files)
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
        paths = [root / file for file in files]
        called = [repr(str(path)) for path in paths]
        headers = encoded.headers(called, lambda index: picture(paths[index]), max_bad_records)
        if len(headers) < len(files):
            passed_over["damaged"] = len(files) - len(headers)
        contents = count_classes(labels[parts["train"]], labels[parts["test"]], len(class_names))
        return _FolderRecords(
            [paths[index] for index in parts[split]],
            labels[parts[split]] if class_names else (),
            encoded.form(headers, image_size),
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
        with picture(self.paths[index]) as image:
            record: Record = {"image": encoded.pixels(image, self.image_shape)}
        if len(self.labels):
            record["label"] = self.labels[index]
        return record


def find(
    root: pathlib.Path, texts: Callable[[str], bool] = lambda name: False
) -> tuple[list[pathlib.Path], dict[str, int]]:
    """The picture files below `root`, relative to it, by name; and what else is there.

    Files whose name is one of `texts` are among them, whatever they hold.
    """

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
            check_kind(pathlib.Path(folder, name), root, inside)
        for path in (pathlib.Path(folder, name) for name in names if not name.startswith(".")):
            if path.suffix.lower() in SUFFIXES or texts(path.name):
                check_kind(path, root, inside)
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
        with picture(path):
            return True
    except UserError:
        return False


def split_folders(root: pathlib.Path, files: list[pathlib.Path]) -> dict[Split, str]:
    """The subfolders that are splits; the training split alone where nothing lies beside it."""
    with os.scandir(root) as entries:  # which knows the kind of each of a million without a look
        there = {name.lower(): name for name in sorted(e.name for e in entries if e.is_dir())}
    train, test = (next((there[n] for n in names if n in there), None) for names in SPLIT_NAMES)
    if train and test:
        return {"train": train, "test": test}
    if train and all(file.parts[0] == train and len(file.parts) > 1 for file in files):
        return {"train": train}
    return {}


def check_kind(path: pathlib.Path, root: pathlib.Path, inside: str) -> None:
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
    return tuple(sorted(names, key=natural))


def natural(name: str) -> tuple[list[str | int], str]:
    """What to sort by, so that numbers in names come by their value."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def picture(path: pathlib.Path) -> AbstractContextManager[Image.Image]:
    """The picture in a file, as `images.opened`."""
    return images.opened(path, f"image {str(path)!r}", "remove it")

"""Data sets that lie in several numbered files."""

import collections
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from diffjax.data import captioned
from diffjax.data.base import Split, local_folder
from diffjax.data.folder import SPLIT_NAMES, check_kind, natural
from diffjax.errors import UserError


class Shard(NamedTuple):
    """A file, and the split that it is of where the data set has both."""

    path: pathlib.Path
    split: Split | None


def find(path: str, suffix: str) -> tuple[list[Shard], captioned.Tally]:
    """The files with this suffix, in natural order, and what was passed over.

    `path` is such a file, or a folder with such files in it or in its subfolders for splits. The
    files are of a split where the name of each begins with it, or lies in its folder: `train` and
    `test`, or `val`. Raises UserError where there are none, for links out of the folder, and for
    special files.
    """
    root = local_folder(path, "path", files=suffix)
    if os.path.isfile(root):
        return [Shard(root, None)], collections.Counter()
    if not os.path.isdir(root):
        raise UserError(f"no folder or file {str(root)!r}: path=... is one with {suffix} files")
    names = _entries(root)
    for name in [name for name in names if _prefix(name) and (root / name).is_dir()]:
        check_kind(root / name, root, os.path.realpath(root))
        names += [os.path.join(name, own) for own in _entries(root / name)]
    there = [root / name for name in names if not (root / name).is_dir()]
    files = [file for file in there if file.name.lower().endswith(suffix)]
    for file in files:
        check_kind(file, root, os.path.realpath(root))
    if not files:
        raise UserError(f"no {suffix} files in {str(root)!r}: put some there")
    passed_over = collections.Counter({f"files other than {suffix}": len(there) - len(files)})
    return _of_splits(root, files, passed_over), passed_over


def _entries(folder: pathlib.Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise UserError(f"cannot read folder {str(folder)!r}: {error.strerror}") from error
    return sorted((name for name in names if not name.startswith(".")), key=natural)


def _prefix(name: str) -> str | None:
    """The name of a split that a file's or folder's name begins with."""
    found = re.match("[a-z]+", name.lower())
    return found[0] if found and found[0] in {n for names in SPLIT_NAMES for n in names} else None


def _of_splits(
    root: pathlib.Path, files: Sequence[pathlib.Path], passed_over: captioned.Tally
) -> list[Shard]:
    """The files with their splits; all without one where not both splits are there."""
    prefixes = [_prefix(file.relative_to(root).parts[0]) for file in files]
    train, test = (next((n for n in names if n in prefixes), None) for names in SPLIT_NAMES)
    if not (train and test):
        return [Shard(file, None) for file in files]
    splits: dict[str | None, Split] = {train: "train", test: "test"}
    shards = [Shard(f, splits[p]) for f, p in zip(files, prefixes, strict=True) if p in splits]
    passed_over[f"files outside {train} and {test}"] += len(files) - len(shards)
    return shards

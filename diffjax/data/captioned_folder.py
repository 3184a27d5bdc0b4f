"""A folder of picture files with captions."""

import collections
import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from diffjax.data import captioned, folder
from diffjax.data.base import Records, Split, local_folder
from diffjax.data.captioned import MOST_TEXT, Captioned
from diffjax.errors import UserError, listed

__all__ = ["CaptionedFolder"]

TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
FILE = ("file_name", "file", "image", "path")


@dataclasses.dataclass(frozen=True)
class CaptionedFolder:
    """Pictures in `path` and its subfolders, each with one caption or more.

    Either `name.txt` lies beside `name.png`, with one caption per line, or the folder has one of
    captions.csv, captions.jsonl, metadata.csv and metadata.jsonl: `file_name` (or `file`, `image`,
    `path`) is a picture's path from the folder on, `text` (or `caption`, `captions`) its caption,
    in JSON a list of them too, and `family`, if there, says what is held out together. Subfolders
    `train` and `test` (or `val`) are the splits, each with its own captions; without them every
    tenth family of pictures that share a caption is held out.
    """

    path: str

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open` and `folder`: a record per pair of picture and caption.

        Captions that are empty or not UTF-8, or have no picture, and pictures without a caption are
        passed over. Raises UserError for a table that names a file outside the folder.
        """
        root = local_folder(self.path, "path")
        if not os.path.isdir(root):
            raise UserError(
                f"no folder {str(root)!r}: captioned_folder(path=...) is one with images"
            )
        found, others = folder.find(root, _is_text)
        passed_over = collections.Counter(others)
        files = [file for file in found if not _is_text(file.name)]
        splits = folder.split_folders(root, files)
        own = {name: kind for kind, name in splits.items()} if len(splits) == 2 else {}
        all_tables = [file for file in found if file.name in TABLES]
        tables = [table for table in all_tables if _is_top(table, splits.values())]
        passed_over["tables in folders further down"] += len(all_tables) - len(tables)
        if own:
            names = " and ".join(f"{name}/" for name in splits.values())
            passed_over[f"outside {names}"] += sum(f.parts[0] not in own for f in files)
            files = [file for file in files if file.parts[0] in own]
        _check_one_table(root, tables)
        if tables:
            passed_over[".txt files beside a table"] += sum(f.suffix == ".txt" for f in found)
            rows = [row for table in tables for row in _of_table(root, table, passed_over)]
        else:
            texts = [file for file in found if file.suffix == ".txt"]
            texts = [file for file in texts if not own or file.parts[0] in own]
            rows = _of_texts(root, files, texts, passed_over)
        pictures = _joined(root, files, rows, own, passed_over)
        paths = [root / file for file in pictures]
        return captioned.records(
            list(pictures.values()),
            lambda index: folder.picture(paths[index]),
            split,
            image_size,
            max_bad_records,
            passed_over,
            repr(str(root)),
        )


@dataclasses.dataclass(frozen=True)
class _Row:
    """The captions of a picture, as one place gives them; `file` is relative to the root."""

    file: pathlib.PurePath
    captions: tuple[str, ...]
    family: str = ""


def _is_text(name: str) -> bool:
    return name.endswith(".txt") or name in TABLES


def _is_top(file: pathlib.Path, splits: Iterable[str]) -> bool:
    """Whether a file lies at the top of the folder or of a split's folder."""
    return len(file.parts) == 1 or (len(file.parts) == 2 and file.parts[0] in splits)


def _check_one_table(root: pathlib.Path, tables: Sequence[pathlib.Path]) -> None:
    for first, second in itertools.pairwise(tables):
        if first.parent == second.parent:
            raise UserError(
                f"{str(root / first.parent)!r} has both {first.name} and {second.name}: keep one"
            )


def _joined(
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    rows: Sequence[_Row],
    own: Mapping[str, Split],
    passed_over: captioned.Tally,
) -> dict[pathlib.Path, Captioned]:
    """Each picture that has a caption, with all of them. Others are counted."""
    by_file: dict[pathlib.PurePath, list[_Row]] = {file: [] for file in files}
    for row in rows:
        if row.file in by_file:
            by_file[row.file].append(row)
        else:
            passed_over["captions without a picture"] += 1
    pictures = {}
    for file in files:
        found = by_file[file]
        captions = tuple(dict.fromkeys(text for row in found for text in row.captions))
        if captions:
            families = tuple(dict.fromkeys(row.family for row in found if row.family))
            name, split = repr(str(root / file)), own.get(file.parts[0])
            pictures[file] = Captioned(name, captions, families, split)
        elif not found:
            passed_over["pictures without a caption"] += 1
    return pictures


def _of_texts(
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    texts: Sequence[pathlib.Path],
    passed_over: captioned.Tally,
) -> list[_Row]:
    """What lies beside pictures: a .txt file is for each picture of its name."""
    named: dict[pathlib.Path, list[pathlib.Path]] = collections.defaultdict(list)
    for file in files:
        named[file.with_suffix("")].append(file)
    rows = []
    for text in texts:
        beside = named.get(text.with_suffix(""))
        if not beside:
            passed_over["captions without a picture"] += 1
            continue
        with (root / text).open("rb") as opened:
            captions = captioned.lines(opened.read(MOST_TEXT + 1), passed_over)
        rows += [_Row(file, captions) for file in beside]
    return rows


def _of_table(
    root: pathlib.Path, table: pathlib.Path, passed_over: captioned.Tally
) -> Iterator[_Row]:
    """The rows of a CSV or JSON lines file. Raises UserError, with the line, for a damaged one."""
    path = root / table
    # What is not UTF-8 becomes lone surrogates, which `captioned.usable` counts.
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    for line, row in (_csv_rows if path.suffix == ".csv" else _json_rows)(path, text):
        name = next((row[key] for key in FILE if row.get(key)), None)
        if not isinstance(name, str):
            raise _damaged(path, line, f"no {' or '.join(FILE)}")
        file = pathlib.PurePosixPath(name)
        if file.is_absolute() or ".." in file.parts:
            raise _damaged(path, line, f"{name!r} is outside of {str(path.parent)!r}")
        value = next((row[key] for key in captioned.TEXT if row.get(key)), "")
        captions = value if isinstance(value, list) else [value]
        family = row.get("family")
        yield _Row(
            table.parent / file,
            captioned.usable(captions, passed_over),
            "" if family is None else str(family),
        )


def _csv_rows(path: pathlib.Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = reader.fieldnames or ()
        for wanted in (FILE, captioned.TEXT):
            if not set(wanted) & set(columns):
                raise UserError(
                    f"{str(path)!r} has no column {' or '.join(wanted)}; "
                    f"it has: {listed(columns) or 'none'}"
                )
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise _damaged(path, reader.reader.line_num, str(error)) from error


def _json_rows(path: pathlib.Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, number, str(error)) from error
        if not isinstance(row, dict):
            raise _damaged(path, number, "it is no JSON object")
        yield number, row


def _damaged(path: pathlib.Path, line: int, what: str) -> UserError:
    reason = " ".join(what.split())
    return UserError(f"cannot read line {line} of {str(path)!r} ({reason}): correct it")

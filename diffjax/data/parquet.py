"""Pictures with captions in parquet files, as Hugging Face's datasets library writes them."""

import collections
import contextlib
import dataclasses
import io
import itertools
import pathlib
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from PIL import Image

from diffjax.data import captioned, images, shards
from diffjax.data.bad import BadRecord
from diffjax.data.base import Records, Split
from diffjax.data.captioned import Captioned
from diffjax.errors import UserError, listed

__all__ = ["Parquet"]

CACHED = 2**30  # bytes of row groups kept: smaller sets are read once
MOST_GROUP = 2**32  # bytes of a row group when it is unpacked
REPLACE = "replace the file"


@dataclasses.dataclass(frozen=True)
class Parquet:
    """The .parquet files in the folder `path`, in natural order, or the one file `path`.

    `image` is the column of encoded pictures, binary or a struct with `bytes`, and `text` that of
    captions, texts or lists of texts; where there is no `text`, it is `caption` or `captions`. A
    column `family` says what is held out together. Files whose names begin with `train` and `test`
    (or `val`) are the splits; without them every tenth family of pictures that share a caption is
    held out. Row groups of 1 GB in all are kept in memory. Needs pyarrow.
    """

    path: str
    image: str = "image"
    text: str = "text"

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`: a record per pair of picture and caption.

        All is read once. Captions that are empty or not UTF-8 are passed over; a picture without
        bytes is a bad record, and no path in place of them is followed. Raises UserError without
        pyarrow, for a damaged file, and for columns that are missing or of another type.
        """
        _pyarrow()
        files, passed_over = shards.find(self.path, ".parquet")
        pictures: list[Captioned] = []
        places: list[_Place] = []
        for path, own in files:
            for place, row in _rows(path, self.image, self.text):
                captions = captioned.usable(row.captions, passed_over)
                if not row.captions:
                    passed_over["pictures without a caption"] += 1
                if captions:
                    pictures.append(Captioned(place.called(), captions, row.families, own))
                    places.append(place)
        groups = _Groups(self.image)
        return captioned.records(
            pictures,
            lambda index: _opened(groups, places[index]),
            split,
            image_size,
            max_bad_records,
            passed_over,
            repr(self.path),
        )


class _Place(NamedTuple):
    path: pathlib.Path
    group: int
    row: int  # of the row group
    number: int  # of the file

    def called(self) -> str:
        return f"the image of row {self.number} of {str(self.path)!r}"


class _Row(NamedTuple):
    captions: Sequence[object]
    families: tuple[str, ...]


def _pyarrow() -> ModuleType:
    # Imported only here: it is optional, and takes a tenth of a second.
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet needs pyarrow: pip install 'diffjax[parquet]'") from error
    return pyarrow


def _rows(path: pathlib.Path, image: str, text: str) -> Iterator[tuple[_Place, _Row]]:
    """The captions of each row of a file. Raises UserError for a file that cannot be used."""
    number = itertools.count()
    try:
        with _pyarrow().parquet.ParquetFile(path) as file:
            text = _checked_columns(path, file.schema_arrow, image, text)
            family = "family" if "family" in file.schema_arrow.names else None
            for group in range(file.metadata.num_row_groups):
                size = file.metadata.row_group(group).total_byte_size
                if size > MOST_GROUP:
                    raise UserError(
                        f"row group {group} of {str(path)!r} unpacks to {size:,} bytes, and "
                        f"{MOST_GROUP:,} are the most: write it again with smaller row groups"
                    )
                table = file.read_row_group(group, columns=[text, *filter(None, [family])])
                families = table.column(family).to_pylist() if family else itertools.repeat(None)
                texts = _as_bytes(table.column(text)).to_pylist()
                for row, (value, own) in enumerate(zip(texts, families, strict=False)):
                    captions = value if isinstance(value, list) else [value]
                    names = () if own is None else (str(own),)
                    yield _Place(path, group, row, next(number)), _Row(captions, names)
    except UserError:
        raise
    except Exception as error:  # which it is depends on where the file is damaged
        raise _unreadable(path, error) from error


def _checked_columns(path: pathlib.Path, schema: Any, image: str, text: str) -> str:
    """The column of captions. Raises UserError for columns that cannot be used."""
    usual = captioned.TEXT if text == captioned.TEXT[0] else (text,)
    found = next((name for name in usual if name in schema.names), None)
    for name, there in ((image, image in schema.names), (text, found)):
        if not there:
            raise UserError(
                f"{str(path)!r} has no column {name!r}; it has: {listed(schema.names) or 'none'}"
            )
    types = _pyarrow().types
    kind = schema.field(image).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise UserError(
            f"column {image!r} of {str(path)!r} is of the type {kind}: encoded pictures are "
            "needed, as binary or a struct with bytes"
        )
    kind = schema.field(found).type
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise UserError(
            f"column {found!r} of {str(path)!r} is of the type {kind}: texts or lists of texts are "
            "needed"
        )
    return str(found)


def _as_bytes(column: Any) -> Any:
    """Texts as bytes, which need not be UTF-8: a file's writer is not to be trusted with it."""
    pyarrow = _pyarrow()
    if pyarrow.types.is_list(column.type):
        return column.cast(pyarrow.list_(pyarrow.binary()))
    if pyarrow.types.is_large_list(column.type):
        return column.cast(pyarrow.large_list(pyarrow.large_binary()))
    return column.cast(pyarrow.large_binary())


class _Groups:
    """The encoded pictures of row groups, the latest of them kept. Any thread may read them."""

    def __init__(self, image: str) -> None:
        self._image = image
        self._kept: collections.OrderedDict[tuple[pathlib.Path, int], Any] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def picture(self, place: _Place) -> bytes | None:
        """The bytes of a picture; None where the row has none."""
        key = place.path, place.group
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._column(*key)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(c.nbytes for c in self._kept.values()) > CACHED:
                self._kept.popitem(last=False)
            column = self._kept[key]
        value = column[place.row].as_py()
        return value["bytes"] if isinstance(value, dict) else value

    def _column(self, path: pathlib.Path, group: int) -> Any:
        """A row group's pictures, equal ones once: a small file may have a large one very often."""
        parquet = _pyarrow().parquet
        with parquet.ParquetFile(path) as file:
            is_struct = self._image not in {leaf.path for leaf in _leaves(file)}
        name = f"{self._image}.bytes" if is_struct else self._image
        with parquet.ParquetFile(path, read_dictionary=[name]) as file:
            return file.read_row_group(group, columns=[name]).column(self._image)


def _leaves(file: Any) -> Iterator[Any]:
    return (file.schema.column(index) for index in range(len(file.schema)))


@contextlib.contextmanager
def _opened(groups: _Groups, place: _Place) -> Iterator[Image.Image]:
    try:
        content = groups.picture(place)
    except Exception as error:  # which it is depends on where the file is damaged
        what = f"cannot read {place.called()} ({images.reason(error)})"
        raise BadRecord(what, REPLACE) from error
    if content is None:
        raise BadRecord(f"{place.called()} has no bytes", REPLACE)
    with images.opened(io.BytesIO(content), place.called(), REPLACE) as image:
        yield image


def _unreadable(path: pathlib.Path, error: Exception) -> UserError:
    return UserError(f"cannot read {str(path)!r} ({images.reason(error)}): {REPLACE}")

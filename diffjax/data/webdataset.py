"""Pictures with captions in tar files, as the webdataset library and img2dataset write them."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import tarfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image

from diffjax.data import captioned, images, shards
from diffjax.data.bad import BadRecord
from diffjax.data.base import Records, Split
from diffjax.data.captioned import MOST_TEXT, Captioned
from diffjax.errors import UserError

__all__ = ["WebDataset"]

IMAGES = ("png", "jpg", "jpeg", "webp")
TEXTS = ("txt", "json")
MOST_IMAGE = 2**28  # bytes of an encoded picture
REPLACE = "replace the file"


@dataclasses.dataclass(frozen=True)
class WebDataset:
    """The .tar files in the folder `path`, in natural order, or the one .tar file `path`.

    Members whose names are equal up to the first dot are one sample: a .png, .jpg, .jpeg or .webp
    picture, and a .txt with one caption per line or a .json with `text`, `caption` or `captions`.
    Files or subfolders whose names begin with `train` and `test` (or `val`) are the splits; without
    them every tenth family of pictures that share a caption is held out. Nothing is unpacked.
    """

    path: str

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`: a record per pair of picture and caption.

        All captions and the headers of all pictures are read. Captions that are empty or not UTF-8,
        or have no picture, pictures without a caption, links and special members are passed over.
        Raises UserError for a damaged or compressed tar file, and for a member whose name leads out
        of the folder.
        """
        files, passed_over = shards.find(self.path, ".tar")
        pictures: list[Captioned] = []
        members: list[_Member] = []
        for file, own in files:
            for sample in _samples(file, passed_over):
                picture = _captioned(sample, own, passed_over)
                if picture is not None and sample.picture is not None:
                    pictures.append(picture)
                    members.append(sample.picture)
        return captioned.records(
            pictures,
            lambda index: _opened(members[index]),
            split,
            image_size,
            max_bad_records,
            passed_over,
            repr(self.path),
        )


class _Member(NamedTuple):
    path: pathlib.Path
    name: str
    offset: int
    size: int

    def called(self) -> str:
        return f"image {self.name!r} of {str(self.path)!r}"


@dataclasses.dataclass
class _Sample:
    """What has one name up to the first dot; texts by their suffix."""

    picture: _Member | None = None
    texts: dict[str, bytes] = dataclasses.field(default_factory=dict)


def _captioned(
    sample: _Sample, split: Split | None, passed_over: captioned.Tally
) -> Captioned | None:
    """The sample's picture with its captions; None, and counted, where one of them is missing."""
    if sample.picture is None:
        passed_over["captions without a picture"] += bool(sample.texts)
        return None
    if not sample.texts:
        passed_over["pictures without a caption"] += 1
        return None
    if "txt" in sample.texts:
        captions = captioned.lines(sample.texts["txt"], passed_over)
    else:
        captions = captioned.usable(_of_json(sample.texts["json"], passed_over), passed_over)
    return Captioned(sample.picture.called(), captions, split=split) if captions else None


def _of_json(content: bytes, passed_over: captioned.Tally) -> Sequence[object]:
    """The captions that a JSON object has; none, and counted, where it cannot be read."""
    try:
        row = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return [content]  # which is counted as not UTF-8
    except (ValueError, RecursionError):
        passed_over["damaged .json members"] += 1
        return []
    keys = captioned.TEXT if isinstance(row, dict) else ()
    value = next((row[key] for key in keys if row.get(key)), "")
    return value if isinstance(value, list) else [value]


def _samples(path: pathlib.Path, passed_over: captioned.Tally) -> list[_Sample]:
    """The samples of a tar file, in order. Raises UserError for a damaged one."""
    samples: dict[str, _Sample] = {}
    with path.open("rb") as file:
        for member in _members(path, file, passed_over):
            folder, _, base = member.name.removeprefix("./").rpartition("/")
            stem, _, suffix = base.partition(".")
            suffix = suffix.lower()
            if not stem or suffix not in (*IMAGES, *TEXTS):
                passed_over["members of other kinds"] += 1
                continue
            sample = samples.setdefault(f"{folder}/{stem}", _Sample())
            if suffix in TEXTS:
                sample.texts.setdefault(suffix, _read(file, member, MOST_TEXT + 1))
            elif sample.picture is not None:
                passed_over["second pictures of a sample"] += 1
            elif member.size > MOST_IMAGE:
                passed_over[f"images of more than {MOST_IMAGE:,} bytes"] += 1
            else:
                sample.picture = member
    return list(samples.values())


def _members(
    path: pathlib.Path, file: io.BufferedReader, passed_over: captioned.Tally
) -> Iterator[_Member]:
    """The plain files in a tar file, by where their content lies."""
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # or the headers of all would stay in memory
                if tar.offset <= end:
                    raise tarfile.ReadError(f"its header at byte {end} leads back")
                end = tar.offset
                if info.isdir():
                    continue
                _check_name(path, info.name)
                if info.isreg() and not info.issparse():
                    yield _Member(path, info.name, info.offset_data, info.size)
                else:
                    passed_over["links, devices and sparse members"] += 1
            # tarfile takes a damaged header for the end, which is a block of zeros.
            block = os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset)
            if block != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"no member and no end at byte {tar.offset:,}")
    except UserError:
        raise
    except Exception as error:  # which it is depends on where the file is damaged
        raise UserError(
            f"cannot read {str(path)!r} ({images.reason(error)}): it is damaged, compressed or cut "
            f"short; {REPLACE}"
        ) from error


def _check_name(path: pathlib.Path, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"{str(path)!r} has a member {name!r}, which leads out: {REPLACE}")


def _read(file: io.BufferedReader, member: _Member, most: int) -> bytes:
    return os.pread(file.fileno(), min(member.size, most), member.offset)


@contextlib.contextmanager
def _opened(member: _Member) -> Iterator[Image.Image]:
    try:
        file: io.BufferedReader = io.BufferedReader(_Part(member))
    except OSError as error:
        what = f"cannot read {member.called()} ({error.strerror})"
        raise BadRecord(what, REPLACE) from error
    with file, images.opened(file, member.called(), REPLACE) as image:
        yield image


class _Part(io.RawIOBase):
    """A member of a tar file as a file, of a thread of its own."""

    def __init__(self, member: _Member) -> None:
        self._member = member
        self._place = 0
        self._file = member.path.open("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._member.size}[whence]
        if start + offset < 0:
            raise OSError("a negative position")
        self._place = start + offset
        return self._place

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        size = max(0, min(len(buffer), self._member.size - self._place))
        data = os.pread(self._file.fileno(), size, self._member.offset + self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

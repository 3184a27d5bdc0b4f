"""Pictures with captions, wherever they lie: which can be used, their splits, and their records."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from diffjax.data import encoded
from diffjax.data.base import Record, Records, Split
from diffjax.data.contents import Contents
from diffjax.data.encoded import Opener
from diffjax.data.families import check_any_family, families, split_families
from diffjax.errors import UserError

TEXT = ("text", "caption", "captions")  # what a column with captions may be called
MOST_TEXT = 2**20  # bytes of a file with captions of one picture
SPLITS: tuple[Split, ...] = ("train", "test")
Tally = collections.Counter[str]  # what is passed over, and how often


@dataclasses.dataclass(frozen=True)
class Captioned:
    """A picture with one caption or more; `name` is what errors call it.

    `families` are names of its families where the data has them, `split` its own split where the
    data has both.
    """

    name: str
    captions: tuple[str, ...]
    families: tuple[str, ...] = ()
    split: Split | None = None


def usable(captions: Iterable[object], passed_over: Tally) -> tuple[str, ...]:
    """The distinct captions, without white space at their ends; the rest is counted by name.

    A caption may be bytes of UTF-8. What is no text, is not UTF-8 or is empty is passed over.
    """
    found = []
    for caption in captions:
        try:
            text = caption.decode() if isinstance(caption, bytes) else caption or ""
            if not isinstance(text, str):
                passed_over["captions that are no text"] += 1
                continue
            text.encode()  # which lone surrogates stop
        except UnicodeError:
            passed_over["captions that are not UTF-8"] += 1
            continue
        if text.strip():
            found.append(text.strip())
        else:
            passed_over["empty captions"] += 1
    return tuple(dict.fromkeys(found))


def lines(content: bytes, passed_over: Tally) -> tuple[str, ...]:
    """The captions of a text file: each line that is not empty."""
    if len(content) > MOST_TEXT:
        passed_over[f"texts of more than {MOST_TEXT:,} bytes"] += 1
        return ()
    rows = [row for row in content.removeprefix(b"\xef\xbb\xbf").splitlines() if row.strip()]
    return usable(rows or [b""], passed_over)


def records(
    pictures: Sequence[Captioned],
    opened: Opener,
    split: Split,
    image_size: int | None,
    max_bad_records: int,
    passed_over: Tally,
    where: str,
) -> Records:
    """The records of a split: one for each pair of a picture and one of its captions.

    `opened(i)` opens picture i. Without splits of their own every tenth family is held out. Raises
    UserError, which names the set as `where`, for a split without a record, and as
    `encoded.headers` and `encoded.form`.
    """
    if not pictures:
        counts = ", ".join(f"{count:,} {what}" for what, count in (+passed_over).items())
        raise UserError(
            f"no picture with a caption in {where}"
            + (f": passed over {counts}" if counts else ": put some there")
        )
    if any(picture.split for picture in pictures):
        parts = {name: _of_split(pictures, name) for name in SPLITS}
        if not len(parts[split]):
            raise UserError(f"no picture with a caption in {where} in the {split} split: add some")
    else:
        numbers = families([picture.families or picture.captions for picture in pictures])
        parts = split_families(numbers)
        check_any_family(parts[split], split, where)
    headers = encoded.headers([picture.name for picture in pictures], opened, max_bad_records)
    if len(headers) < len(pictures):
        passed_over["damaged"] = len(pictures) - len(headers)
    held_out = sum(len(pictures[index].captions) for index in parts["test"])
    return CaptionedRecords(
        opened,
        [(int(index), text) for index in parts[split] for text in pictures[index].captions],
        encoded.form(headers, image_size),
        Contents(num_held_out=held_out, passed_over=dict(+passed_over)),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionedRecords:
    """Records of pictures that `opened` opens by number, and their captions, without labels."""

    opened: Opener
    pairs: Sequence[tuple[int, str]]
    image_shape: tuple[int, int, int]
    contents: Contents
    num_classes: None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Record:
        number, text = self.pairs[index]
        with self.opened(number) as image:
            return {"image": encoded.pixels(image, self.image_shape), "text": text}


def _of_split(pictures: Sequence[Captioned], split: Split) -> np.ndarray:
    return np.flatnonzero([picture.split == split for picture in pictures])

"""Data sets prepared by TensorFlow Datasets, read without TensorFlow."""

import dataclasses
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffjax.data import images
from diffjax.data.bad import BadRecord
from diffjax.data.base import Record, Records, Split, local_folder
from diffjax.data.contents import Contents
from diffjax.data.tfds_files import PREPARE_AGAIN, builder_of, check_files, how_to_prepare
from diffjax.data.tfds_splits import Splits
from diffjax.errors import UserError

__all__ = ["TFDS"]

DEFAULT_DATA_DIR = "~/tensorflow_datasets"


@dataclasses.dataclass(frozen=True)
class TFDS:
    """A data set that lies prepared in `data_dir`, as ArrayRecord files.

    `name` is as in TFDS: 'cifar10', 'cifar10:3.0.2', 'name/config'. `data_dir` defaults to
    TFDS_DATA_DIR, then to ~/tensorflow_datasets. `image`, `label` and `text` say which of the set's
    features to use; left out, they are those so called (or `caption`), or else its only image and
    its only class label; `label=''` and `text=''` use none. `select` chooses records of both splits
    by their other features: 'style=noto|fluent', 'style!=noto', or several joined with ','. Without
    a test split every tenth record of train is held out, or of a set with texts every tenth family,
    all records of one text; a feature `family` names the families.
    """

    name: str = "cifar10"
    data_dir: str | None = None
    image: str | None = None
    label: str | None = None
    text: str | None = None
    select: str = ""

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`: it finds damaged files, but no damaged records in them.

        Records without a class (label -1) are bad records: taken for a class, -1 would be the last.
        """
        # Imported only here: it takes half a second, which no other data set should wait for.
        from tensorflow_datasets import features as kinds

        where = local_folder(
            self.data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR, "data_dir"
        )
        builder = builder_of(self.name, where)
        features = builder.info.features
        image = self._key(features, "image", self.image, kinds.Image, ("image",))
        label = self._key(features, "label", self.label, kinds.ClassLabel, ("label",))
        if image is None:
            raise UserError(
                f"{self.name} has not one image alone: give image='...', "
                f"one of its features {', '.join(sorted(features))}"
            )
        text = self._key(features, "text", self.text, kinds.Text, ("text", "caption"))
        undecoded = _of_kind(features, kinds.Image)
        splits = Splits(self.name, self.select, builder.info, label, text)
        sources = {
            name: self._source(builder, name, where, undecoded) for name in splits.needed(split)
        }
        indices, contents = splits.records(split, sources)
        classes = features[label].num_classes if label else None
        return _TFDSRecords(
            self.name,
            sources[splits.own(split)],
            indices,
            image,
            label,
            text,
            self._shape(features[image], image_size),
            classes,
            tuple(features[label].names or ()) if label else (),
            dataclasses.replace(contents, passed_over=_unused(builder.info.splits)),
        )

    def _key(
        self, features: Any, option: str, wanted: str | None, kind: type, usual: tuple[str, ...]
    ) -> str | None:
        """The feature to use: the one that is wanted, one of a usual name, or the only one."""
        fitting = _of_kind(features, kind)
        if wanted == "" and option != "image":
            return None
        if wanted is not None and wanted not in fitting:
            raise UserError(
                f"{self.name} has no {kind.__name__} feature {wanted!r} for {option}; "
                f"it has: {', '.join(fitting) or 'none'}"
            )
        named = [key for key in (wanted, *usual) if key in fitting]
        if not named and len(fitting) == 1 and option != "text":  # any string might be an id
            return fitting[0]
        return named[0] if named else None

    def _source(self, builder: Any, own: str, where: pathlib.Path, undecoded: Sequence[str]) -> Any:
        """The records of the set's own split of this name."""
        from tensorflow_datasets import decode

        splits = sorted(builder.info.splits)
        if "train" not in splits:
            raise UserError(f"{self.name} has no train split; its splits: {', '.join(splits)}")
        try:
            # TFDS would give images to any decoder of Pillow, or to OpenCV, unchecked.
            source = builder.as_data_source(
                own, decoders=dict.fromkeys(undecoded, decode.SkipDecoding())
            )
        except NotImplementedError as error:
            raise UserError(
                f"{self.name} in {str(where)!r} is of a format that only tensorflow reads; "
                f"{how_to_prepare(self.name, where)}"
            ) from error
        check_files(self.name, builder.info.splits[own].file_instructions)
        return source

    def _shape(self, feature: Any, image_size: int | None) -> tuple[int, int, int]:
        if feature.np_dtype != np.uint8:
            raise UserError(f"{self.name} has images of {feature.np_dtype}: only uint8 can be used")
        height, width, channels = feature.shape
        if image_size is None and None in (height, width):
            raise UserError(
                f"images of {self.name} differ in size: give an image_size", option="image_size"
            )
        return images.shape((height or 0, width or 0, channels or 3), image_size)


@dataclasses.dataclass(frozen=True, eq=False)
class _TFDSRecords:
    name: str
    source: Any
    indices: np.ndarray | None  # None for all
    image: str
    label: str | None
    text: str | None
    image_shape: tuple[int, int, int]
    num_classes: int | None
    class_names: tuple[str, ...]
    contents: Contents

    def __len__(self) -> int:
        return len(self.source if self.indices is None else self.indices)

    def __getitem__(self, index: int) -> Record:
        number = int(index if self.indices is None else self.indices[index])
        try:
            return self._record(self.source[number], number)
        except UserError:
            raise
        except Exception as error:  # which it is depends on where the record is damaged
            what = f"cannot read {self._called(number)} ({images.reason(error)})"
            raise BadRecord(what, PREPARE_AGAIN) from error

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        """Many at once take a good half of the time."""
        numbers = [int(i if self.indices is None else self.indices[i]) for i in indices]
        try:
            examples = self.source.__getitems__(numbers)
        except Exception:  # says nothing of which record it is
            return [self[index] for index in indices]
        return [self._record(*pair) for pair in zip(examples, numbers, strict=True)]

    def _record(self, example: dict[str, Any], number: int) -> Record:
        encoded = io.BytesIO(example[self.image])
        with images.opened(encoded, f"the image of {self._called(number)}", PREPARE_AGAIN) as image:
            record: Record = {"image": images.from_image(image, self.image_shape)}
        if self.label:
            record["label"] = self._label(int(example[self.label]), number)
        if self.text:
            record["text"] = self._text(example[self.text], number)
        return record

    def _text(self, text: bytes, number: int) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            what = f"the text of {self._called(number)} is not UTF-8 ({images.reason(error)})"
            raise BadRecord(what, PREPARE_AGAIN) from error

    def _label(self, label: int, number: int) -> np.int32:
        if not 0 <= label < (self.num_classes or 0):
            raise BadRecord(
                f"{self._called(number)} has the label {label}, and its classes are 0 to "
                f"{(self.num_classes or 0) - 1}",
                "pass label='' in the spec to use the images without labels",
            )
        return np.int32(label)

    def _called(self, number: int) -> str:
        return f"record {number} of {self.name}"


def _of_kind(features: Any, kind: type) -> list[str]:
    return [key for key, feature in features.items() if isinstance(feature, kind)]


def _unused(splits: Mapping[str, Any]) -> dict[str, int]:
    """The records of splits that are neither trained on nor held out."""
    return {
        f"in split {name}": split.num_examples
        for name, split in sorted(splits.items())
        if name not in ("train", "test")
    }

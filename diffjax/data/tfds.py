"""Data sets prepared by TensorFlow Datasets, read without TensorFlow."""

import dataclasses
import difflib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffjax.data import images
from diffjax.data.base import Record, Records, Split, held_out
from diffjax.errors import UserError

__all__ = ["TFDS"]

DEFAULT_DATA_DIR = "~/tensorflow_datasets"


@dataclasses.dataclass(frozen=True)
class TFDS:
    """A data set that lies prepared in `data_dir`, as ArrayRecord files.

    `name` is as in TFDS: 'cifar10', 'cifar10:3.0.2', 'name/config'. `data_dir` defaults to
    TFDS_DATA_DIR, then to ~/tensorflow_datasets. `image`, `label` and `text` say which of the set's
    features to use; left out, they are those so called (or `caption`), or else its only image and
    its only class label. Without a test split every tenth record of train is held out.
    """

    name: str = "cifar10"
    data_dir: str | None = None
    image: str | None = None
    label: str | None = None
    text: str | None = None

    def open(self, split: Split, image_size: int | None) -> Records:
        """As `diffjax.data.Dataset.open`."""
        # Imported only here: it takes half a second, which no other data set should wait for.
        from tensorflow_datasets import features as kinds

        where = pathlib.Path(
            self.data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR
        ).expanduser()
        builder = _builder(self.name, where)
        features = builder.info.features
        image = self._key(features, "image", self.image, kinds.Image, ("image",))
        label = self._key(features, "label", self.label, kinds.ClassLabel, ("label",))
        if image is None:
            raise UserError(
                f"{self.name} has not one image alone: give image='...', "
                f"one of its features {', '.join(sorted(features))}"
            )
        source, indices = self._source(builder, split, where)
        return _TFDSRecords(
            self.name,
            source,
            indices,
            image,
            label,
            self._key(features, "text", self.text, kinds.Text, ("text", "caption")),
            self._shape(features[image], image_size),
            features[label].num_classes if label else None,
            tuple(features[label].names or ()) if label else (),
        )

    def _key(
        self, features: Any, option: str, wanted: str | None, kind: type, usual: tuple[str, ...]
    ) -> str | None:
        """The feature to use: the one that is wanted, one of a usual name, or the only one."""
        fitting = [key for key, feature in features.items() if isinstance(feature, kind)]
        if wanted is not None and wanted not in fitting:
            raise UserError(
                f"{self.name} has no {kind.__name__} feature {wanted!r} for {option}; "
                f"it has: {', '.join(fitting) or 'none'}"
            )
        named = [key for key in (wanted, *usual) if key in fitting]
        if not named and len(fitting) == 1 and option != "text":  # any string might be an id
            return fitting[0]
        return named[0] if named else None

    def _source(
        self, builder: Any, split: Split, where: pathlib.Path
    ) -> tuple[Any, np.ndarray | None]:
        """The source of a split, and which of its records to use where that is not all."""
        splits = sorted(builder.info.splits)
        if "train" not in splits:
            raise UserError(f"{self.name} has no train split; its splits: {', '.join(splits)}")
        try:
            source = builder.as_data_source(split if "test" in splits else "train")
        except NotImplementedError as error:
            raise UserError(
                f"{self.name} in {str(where)!r} is of a format that only tensorflow reads; "
                f"{_how_to_prepare(self.name, where)}"
            ) from error
        if "test" in splits:
            return source, None
        return source, held_out(len(source), split, self.name)

    def _shape(self, feature: Any, image_size: int | None) -> tuple[int, int, int]:
        if feature.np_dtype != np.uint8:
            raise UserError(f"{self.name} has images of {feature.np_dtype}: only uint8 can be used")
        height, width, channels = feature.shape
        if image_size is None and None in (height, width):
            raise UserError(f"images of {self.name} differ in size: pass --image_size=64")
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

    def __len__(self) -> int:
        return len(self.source if self.indices is None else self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        """Many at once take a good half of the time."""
        if self.indices is not None:
            indices = self.indices[list(indices)].tolist()
        try:
            return [self._record(example) for example in self.source.__getitems__(list(indices))]
        except RuntimeError as error:  # what ArrayRecord raises for a missing or damaged file
            reason = " ".join(str(error).split())
            raise UserError(f"cannot read {self.name} ({reason}): prepare it again") from error

    def _record(self, example: dict[str, Any]) -> Record:
        record: Record = {"image": images.from_array(example[self.image], self.image_shape)}
        if self.label:
            record["label"] = np.int32(example[self.label])
        if self.text:
            record["text"] = example[self.text].decode()
        return record


def _builder(name: str, where: pathlib.Path) -> Any:
    """The builder of a prepared set. Raises UserError that says what is there if it is not."""
    from tensorflow_datasets.core import read_only_builder

    try:
        # tfds.builder would go on to the set's own code, which needs tensorflow.
        return read_only_builder.builder_from_files(name, data_dir=where)
    except (ValueError, OSError) as error:
        # name/version or name/config/version
        infos = [*where.glob("*/*/dataset_info.json"), *where.glob("*/*/*/dataset_info.json")]
        parts = sorted(info.relative_to(where).parts[:-1] for info in infos)
        plain = re.split("[:/]", name.lower())[0]
        close = difflib.get_close_matches(plain, {part[0] for part in parts}, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        there = ", ".join(f"{'/'.join(part[:-1])}:{part[-1]}" for part in parts)
        raise UserError(
            f"no data set {name!r} in {str(where)!r}{hint}; prepared there: {there or 'none'}; "
            f"pass another --data_dir, or {_how_to_prepare(name, where)}"
        ) from error


def _how_to_prepare(name: str, where: pathlib.Path) -> str:
    return (
        "prepare it with tensorflow: pip install tensorflow && "
        f"tfds build {name} --file_format=array_record --data_dir={where}"
    )

"""Data sets prepared by TensorFlow Datasets, read without TensorFlow."""

import contextlib
import dataclasses
import difflib
import io
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from diffjax.data import images
from diffjax.data.bad import BadRecord
from diffjax.data.base import Record, Records, Split, check_any, local_folder, split_up
from diffjax.data.contents import Contents, count_classes
from diffjax.errors import UserError

__all__ = ["TFDS"]

DEFAULT_DATA_DIR = "~/tensorflow_datasets"
MOST_READ = 2**27  # bytes: sets without a test split up to this size are read for their labels
UNKNOWN = -1  # a label
PREPARE_AGAIN = "prepare it again"


@dataclasses.dataclass(frozen=True)
class TFDS:
    """A data set that lies prepared in `data_dir`, as ArrayRecord files.

    `name` is as in TFDS: 'cifar10', 'cifar10:3.0.2', 'name/config'. `data_dir` defaults to
    TFDS_DATA_DIR, then to ~/tensorflow_datasets. `image`, `label` and `text` say which of the set's
    features to use; left out, they are those so called (or `caption`), or else its only image and
    its only class label; `label=''` and `text=''` use none. Without a test split every tenth record
    of train is held out.
    """

    name: str = "cifar10"
    data_dir: str | None = None
    image: str | None = None
    label: str | None = None
    text: str | None = None

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`: it finds damaged files, but no damaged records in them.

        Records without a class (label -1) are bad records: taken for a class, -1 would be the last.
        """
        # Imported only here: it takes half a second, which no other data set should wait for.
        from tensorflow_datasets import features as kinds

        where = local_folder(
            self.data_dir or os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR, "data_dir"
        )
        builder = _builder(self.name, where)
        features = builder.info.features
        image = self._key(features, "image", self.image, kinds.Image, ("image",))
        label = self._key(features, "label", self.label, kinds.ClassLabel, ("label",))
        if image is None:
            raise UserError(
                f"{self.name} has not one image alone: give image='...', "
                f"one of its features {', '.join(sorted(features))}"
            )
        undecoded = _of_kind(features, kinds.Image)
        source = self._source(builder, split, where, undecoded)
        classes = features[label].num_classes if label else None
        indices, contents = self._split(builder, split, source, label, classes)
        return _TFDSRecords(
            self.name,
            source,
            indices,
            image,
            label,
            self._key(features, "text", self.text, kinds.Text, ("text", "caption")),
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

    def _source(
        self, builder: Any, split: Split, where: pathlib.Path, undecoded: Sequence[str]
    ) -> Any:
        """The records of a split, or of train where there is no test split."""
        from tensorflow_datasets import decode

        splits = sorted(builder.info.splits)
        if "train" not in splits:
            raise UserError(f"{self.name} has no train split; its splits: {', '.join(splits)}")
        own = split if "test" in splits else "train"
        try:
            # TFDS would give images to any decoder of Pillow, or to OpenCV, unchecked.
            source = builder.as_data_source(
                own, decoders=dict.fromkeys(undecoded, decode.SkipDecoding())
            )
        except NotImplementedError as error:
            raise UserError(
                f"{self.name} in {str(where)!r} is of a format that only tensorflow reads; "
                f"{_how_to_prepare(self.name, where)}"
            ) from error
        _check_files(self.name, builder.info.splits[own].file_instructions)
        return source

    def _split(
        self, builder: Any, split: Split, source: Any, label: str | None, classes: int | None
    ) -> tuple[np.ndarray | None, Contents]:
        """Which records of the source are the split's, None for all, and what the set holds."""
        if "test" in builder.info.splits:
            return None, Contents(num_held_out=builder.info.splits["test"].num_examples)
        labels = np.full(len(source), UNKNOWN)
        if label is not None and builder.info.splits["train"].num_bytes <= MOST_READ:
            labels = np.asarray([_label_of(source, index, label) for index in range(len(source))])
        parts = split_up(np.zeros(len(source)))
        # By number and not within classes: a record that is damaged later moves no other.
        unlearnt = set(labels[parts["test"]]) - set(labels[parts["train"]]) - {UNKNOWN}
        if unlearnt:
            moved = np.isin(labels, list(unlearnt))
            parts["train"] = np.union1d(parts["train"], np.flatnonzero(moved))
            parts["test"] = parts["test"][~moved[parts["test"]]]
        check_any(parts[split], split, len(source), self.name)
        if classes is None or not ((labels >= 0) & (labels < classes)).all():
            return parts[split], Contents(num_held_out=len(parts["test"]))
        return parts[split], count_classes(labels[parts["train"]], labels[parts["test"]], classes)

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
            record["text"] = example[self.text].decode()
        return record

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


def _label_of(source: Any, index: int, label: str) -> int:
    """The label of a record; UNKNOWN where it cannot be read, which is told when it is met."""
    try:
        return int(source[index][label])
    except Exception:  # which it is depends on where the record is damaged
        return UNKNOWN


def _of_kind(features: Any, kind: type) -> list[str]:
    return [key for key, feature in features.items() if isinstance(feature, kind)]


def _unused(splits: Mapping[str, Any]) -> dict[str, int]:
    """The records of splits that are neither trained on nor held out."""
    return {
        f"in split {name}": split.num_examples
        for name, split in sorted(splits.items())
        if name not in ("train", "test")
    }


def _check_files(name: str, instructions: Sequence[Any]) -> None:
    """Raises UserError for a file that is not there, or holds not the records that it should."""

    def check(instruction: Any) -> None:
        path = os.fspath(instruction.filename)
        if fault := _fault(path, instruction.examples_in_shard):
            raise UserError(f"cannot read {name} ({path!r}: {fault}): {PREPARE_AGAIN}")

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, instructions))


def _fault(path: str, expected: int) -> str | None:
    """What is wrong with an ArrayRecord file, as its end says, which one cut short has lost."""
    from array_record.python.array_record_module import ArrayRecordReader

    if not os.path.isfile(path):
        return "no such file"
    reader = ArrayRecordReader(path)
    count = reader.num_records()
    try:
        reader.close()  # only now does it raise what went wrong above
    except RuntimeError as error:
        return images.reason(error)
    return None if count == expected else f"{count} records in place of {expected}"


def _builder(name: str, where: pathlib.Path) -> Any:
    """The builder of a prepared set. Raises UserError that says what is there if it is not."""
    from tensorflow_datasets import features as kinds
    from tensorflow_datasets.core import naming, read_only_builder, registered

    try:
        plain, _ = naming.parse_builder_name_kwargs(name)
    except ValueError as error:
        raise _missing(name, where) from error
    try:
        _check_feature_classes(where / plain.name)
        # tfds.builder would go on to the set's own code, which needs tensorflow.
        builder = read_only_builder.builder_from_files(name, data_dir=where)
        if not isinstance(builder.info.features, kinds.FeaturesDict):
            raise ValueError("no dictionary of features")
    except UserError:
        raise
    except registered.DatasetNotFoundError as error:
        raise _missing(name, where) from error
    except Exception as error:  # damaged JSON, or JSON of something else: of many types
        raise UserError(
            f"cannot read dataset_info.json and features.json of {name} in "
            f"{str(where / plain.name)!r} ({images.reason(error)}): {PREPARE_AGAIN}"
        ) from error
    return builder


def _check_feature_classes(folder: pathlib.Path) -> None:
    """Raises UserError where a features.json would have TFDS import a module of its choice."""

    def check(node: dict[str, Any]) -> None:
        for key in ("pythonClassName", "python_class_name", "type"):
            kind = str(node.get(key, ""))
            if "." in kind and not kind.startswith("tensorflow_datasets."):
                raise UserError(
                    f"{str(path)!r} has features of {kind!r}: only those of TFDS itself are read; "
                    f"{PREPARE_AGAIN} with these"
                )
        if isinstance(node.get("content"), str):  # old files hold JSON in JSON
            scan(node["content"])

    def scan(text: str | bytes) -> None:
        with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):  # TFDS says it better
            json.loads(text, object_hook=check)

    for path in folder.rglob("features.json"):
        scan(path.read_bytes())


def _missing(name: str, where: pathlib.Path) -> UserError:
    # name/version or name/config/version
    infos = [*where.glob("*/*/dataset_info.json"), *where.glob("*/*/*/dataset_info.json")]
    parts = sorted(info.relative_to(where).parts[:-1] for info in infos)
    plain = re.split("[:/]", name.lower())[0]
    close = difflib.get_close_matches(plain, {part[0] for part in parts}, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    there = ", ".join(f"{'/'.join(part[:-1])}:{part[-1]}" for part in parts)
    return UserError(
        f"no data set {name!r} in {str(where)!r}{hint}; prepared there: {there or 'none'}; "
        f"give another data_dir, or {_how_to_prepare(name, where)}",
        option="data_dir",
    )


def _how_to_prepare(name: str, where: pathlib.Path) -> str:
    return (
        "prepare it with tensorflow: pip install tensorflow && "
        f"tfds build {name} --file_format=array_record --data_dir={where}"
    )

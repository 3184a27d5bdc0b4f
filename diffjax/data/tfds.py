"""Data sets prepared by TensorFlow Datasets, read without TensorFlow."""

import contextlib
import dataclasses
import difflib
import io
import json
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from diffjax.data import images
from diffjax.data.bad import BadRecord
from diffjax.data.base import Record, Records, Split, check_any, local_folder
from diffjax.data.contents import Contents, count_classes
from diffjax.data.families import check_any_family, families, split_families
from diffjax.data.selection import Clause, check_values, parse
from diffjax.errors import UserError

__all__ = ["TFDS"]

DEFAULT_DATA_DIR = "~/tensorflow_datasets"
MOST_READ = 2**27  # bytes: sets without a test split up to this size are read for their labels
READ_AT_ONCE = 256  # records
UNKNOWN = -1  # a label
PREPARE_AGAIN = "prepare it again"


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
        builder = _builder(self.name, where)
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
        clauses = _clauses(self.name, self.select, features)
        own = split if "test" in builder.info.splits else "train"
        both = clauses and "test" in builder.info.splits  # how many are held out must be counted
        sources = {
            name: self._source(builder, name, where, undecoded)
            for name in (("train", "test") if both else (own,))
        }
        indices, contents = self._split(builder, split, sources, clauses, label, text)
        classes = features[label].num_classes if label else None
        return _TFDSRecords(
            self.name,
            sources[own],
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
                f"{_how_to_prepare(self.name, where)}"
            ) from error
        _check_files(self.name, builder.info.splits[own].file_instructions)
        return source

    def _split(
        self,
        builder: Any,
        split: Split,
        sources: Mapping[str, Any],
        clauses: Sequence[Clause],
        label: str | None,
        text: str | None,
    ) -> tuple[np.ndarray | None, Contents]:
        """Which records of the split's source are its own, None for all, and what the set holds."""
        features, splits = builder.info.features, builder.info.splits
        if "test" in splits and not clauses:
            return None, Contents(num_held_out=splits["test"].num_examples)
        keys = {clause.feature for clause in clauses}
        small = "test" not in splits and splits["train"].num_bytes <= MOST_READ
        label, family = label if small else None, _family(features, text)
        keys |= {key for key in (label, family) if key and "test" not in splits}
        rows = {name: _rows(source, keys) for name, source in sources.items()}
        chosen = self._chosen(features, clauses, rows)
        if not len(chosen.get(split, chosen["train"])):
            raise UserError(
                f"select={self.select!r} leaves no record of {self.name} in the {split} split: "
                "choose other values"
            )
        if "test" in splits:
            return chosen[split], Contents(num_held_out=len(chosen["test"]))
        own = [rows["train"][index] for index in chosen["train"]]
        classes = features[label].num_classes if label else None
        indices, contents = self._held_out(own, split, label, family, classes)
        return chosen["train"][indices], contents

    def _held_out(
        self,
        rows: Sequence[dict[str, Any]],
        split: Split,
        label: str | None,
        family: str | None,
        classes: int | None,
    ) -> tuple[np.ndarray, Contents]:
        """Which rows are the split's, by family and not within classes, and what the set holds.

        A record that cannot be read is a family of its own, and so is each in a set without texts.
        """
        labels = np.asarray([row.get(label or "", UNKNOWN) for row in rows], np.int64)
        numbers = families([[_key_of(row[family])] if family in row else [] for row in rows])
        parts = split_families(numbers)
        unlearnt = set(labels[parts["test"]]) - set(labels[parts["train"]]) - {UNKNOWN}
        if unlearnt:
            moved = np.isin(numbers, numbers[np.isin(labels, list(unlearnt))])
            parts["train"] = np.union1d(parts["train"], np.flatnonzero(moved))
            parts["test"] = parts["test"][~moved[parts["test"]]]
        if family:
            check_any_family(parts[split], split, self.name)
        else:
            check_any(parts[split], split, len(rows), self.name)
        if classes is None or not ((labels >= 0) & (labels < classes)).all():
            return parts[split], Contents(num_held_out=len(parts["test"]))
        return parts[split], count_classes(labels[parts["train"]], labels[parts["test"]], classes)

    def _chosen(
        self, features: Any, clauses: Sequence[Clause], rows: Mapping[str, Sequence[dict[str, Any]]]
    ) -> dict[str, np.ndarray]:
        """The indices in each split that `select` chooses, and of records that cannot be read."""
        chosen = {name: np.ones(len(own), bool) for name, own in rows.items()}
        for clause in clauses:
            feature = features[clause.feature]
            known = set(getattr(feature, "names", None) or ())
            for name, own in rows.items():
                names = [
                    _names(feature, row[clause.feature]) if clause.feature in row else None
                    for row in own
                ]
                known.update(*filter(None, names))
                chosen[name] &= [n is None or clause.keeps(n) for n in names]
            check_values(clause, known, self.name)
        return {name: np.flatnonzero(own) for name, own in chosen.items()}

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


def _clauses(name: str, select: str, features: Any) -> tuple[Clause, ...]:
    """What `select` says. Raises UserError for features that are not there, or no single values."""
    clauses = parse(select)
    legal = [key for key in sorted(features) if _is_value(features[key])]
    for clause in clauses:
        if clause.feature not in legal:
            raise UserError(
                f"select: {name} has no feature {clause.feature!r} to choose by; "
                f"it has: {', '.join(legal) or 'none'}"
            )
    return clauses


def _is_value(feature: Any) -> bool:
    """Whether it is one label, text, whole number or truth value."""
    from tensorflow_datasets import features as kinds

    if isinstance(feature, kinds.ClassLabel | kinds.Text):
        return True
    dtype = getattr(feature, "np_dtype", None)
    plain = isinstance(feature, kinds.Scalar) or type(feature) is kinds.Tensor
    return plain and feature.shape == () and np.dtype(dtype).kind in "biu"


def _names(feature: Any, value: Any) -> frozenset[str]:
    """What a value goes by in `select`: 0 and 1 are false and true as well."""
    if isinstance(value, bytes):
        return frozenset((_key_of(value).strip(),))
    number = int(value)
    if hasattr(feature, "int2str"):
        known = 0 <= number < feature.num_classes
        return frozenset((feature.int2str(number),)) if known else frozenset()
    return frozenset((str(number), *{0: ("false",), 1: ("true",)}.get(number, ())))


def _family(features: Any, text: str | None) -> str | None:
    """The feature that records held out together share; none in a set without texts."""
    if text and "family" in features and _is_value(features["family"]):
        return "family"
    return text


def _key_of(value: Any) -> str:
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)


def _rows(source: Any, keys: Collection[str]) -> list[dict[str, Any]]:
    """These features of each record; none of one that cannot be read, which is told when met."""
    if not keys:
        return [{}] * len(source)
    rows = []
    for start in range(0, len(source), READ_AT_ONCE):
        numbers = range(start, min(start + READ_AT_ONCE, len(source)))
        try:
            examples = source.__getitems__(list(numbers))
        except Exception:  # which it is depends on where the record is damaged
            examples = [_readable(source, number) for number in numbers]
        rows += [{key: example[key] for key in keys if key in example} for example in examples]
    return rows


def _readable(source: Any, number: int) -> dict[str, Any]:
    try:
        return source[number]
    except Exception:  # as above
        return {}


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

"""Which records of a prepared TFDS set are in a split: chosen by features, held out by family."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from diffjax.data.base import Split, check_any
from diffjax.data.contents import Contents, count_classes
from diffjax.data.families import check_any_family, families, split_families
from diffjax.data.selection import Clause, check_values, parse
from diffjax.errors import UserError

MOST_READ = 2**27  # bytes: sets without a test split up to this size are read for their labels
READ_AT_ONCE = 256  # records
UNKNOWN = -1  # a label


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The splits of the set `name` as the options of `TFDS` cut them.

    `label` and `text` are the features in use. Raises UserError for a selection by what is no
    feature, or has more than one value.
    """

    name: str
    select: str
    info: Any  # TFDS's DatasetInfo
    label: str | None
    text: str | None

    def __post_init__(self) -> None:
        self.clauses  # noqa: B018 - refuses what cannot be chosen by

    @cached_property
    def clauses(self) -> tuple[Clause, ...]:
        """What a chosen record meets."""
        return _clauses(self.name, self.select, self.info.features)

    @property
    def has_test(self) -> bool:
        """Whether the set has a test split of its own."""
        return "test" in self.info.splits

    def own(self, split: Split) -> Split:
        """The set's own split that a split's records lie in."""
        return split if self.has_test else "train"

    def needed(self, split: Split) -> tuple[Split, ...]:
        """The set's own splits that `records` reads."""
        # How many are held out must be counted where some are left out.
        return ("train", "test") if self.clauses and self.has_test else (self.own(split),)

    def records(
        self, split: Split, sources: Mapping[Split, Any]
    ) -> tuple[np.ndarray | None, Contents]:
        """Which records of its source are the split's, None for all, and what the set holds.

        Raises UserError where there are none.
        """
        splits = self.info.splits
        if self.has_test and not self.clauses:
            return None, Contents(num_held_out=splits["test"].num_examples)
        keys = {clause.feature for clause in self.clauses}
        if not self.has_test:
            keys |= {key for key in (self._learnt, self._family) if key}
        rows = {name: _rows(source, keys) for name, source in sources.items()}
        chosen = self._chosen(rows)
        if not len(chosen[self.own(split)]):
            raise UserError(
                f"select={self.select!r} leaves no record of {self.name} in the {split} split: "
                "choose other values"
            )
        if self.has_test:
            return chosen[split], Contents(num_held_out=len(chosen["test"]))
        indices, contents = self._held_out([rows["train"][i] for i in chosen["train"]], split)
        return chosen["train"][indices], contents

    @property
    def _learnt(self) -> str | None:
        """The label, where all labels are read: no class may be held out whole."""
        return self.label if self.info.splits["train"].num_bytes <= MOST_READ else None

    @property
    def _family(self) -> str | None:
        """The feature that records held out together share; none in a set without texts."""
        features = self.info.features
        if self.text and "family" in features and _is_value(features["family"]):
            return "family"
        return self.text

    def _chosen(self, rows: Mapping[Split, Sequence[dict[str, Any]]]) -> dict[Split, np.ndarray]:
        """The indices in each split that `select` chooses, and of records that cannot be read."""
        chosen = {name: np.ones(len(own), bool) for name, own in rows.items()}
        for clause in self.clauses:
            feature = self.info.features[clause.feature]
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

    def _held_out(
        self, rows: Sequence[dict[str, Any]], split: Split
    ) -> tuple[np.ndarray, Contents]:
        """Which rows are the split's, by family and not within classes, and what the set holds.

        A record that cannot be read is a family of its own, and so is each in a set without texts.
        """
        label, family = self._learnt, self._family
        classes = self.info.features[label].num_classes if label else None
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

"""What a data set holds, and what was left out of it: said at a run's start."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffjax.errors import listed

if TYPE_CHECKING:
    from diffjax.data.base import Records


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is known of a data set without reading it all, the same for both of its splits.

    trained, held_out: records of each class in the splits; empty where that is not known.
    num_held_out: records of the test split that are not trained on. passed_over: what was found and
    left out, and how often.
    """

    trained: tuple[int, ...] = ()
    held_out: tuple[int, ...] = ()
    num_held_out: int = 0
    passed_over: Mapping[str, int] = dataclasses.field(default_factory=dict)


def count_classes(
    trained: Sequence[int] | np.ndarray, held_out: Sequence[int] | np.ndarray, num_classes: int
) -> Contents:
    """The contents of a set of these labels, all of one class where it has no classes."""

    def counts(labels: Sequence[int] | np.ndarray) -> tuple[int, ...]:
        return tuple(np.bincount(np.asarray(labels, int), minlength=num_classes).tolist())

    if not num_classes:
        return Contents(num_held_out=len(held_out))
    return Contents(counts(trained), counts(held_out), len(held_out))


def described(records: "Records") -> str:
    """What the training split `records` holds, in one line."""
    contents = records.contents
    height, width, channels = records.image_shape
    colour = "grey" if channels == 1 else "colour"
    held_out = f"{contents.num_held_out:,} held out" if contents.num_held_out else "none held out"
    images = f"{len(records):,} image{'s' * (len(records) != 1)}"
    parts = [f"{images} of {height}x{width} in {colour}", *_classes(records)]
    for split, counts in (("to train on", contents.trained), ("held out", contents.held_out)):
        missing = [_name(records, i) for i, count in enumerate(counts) if not count]
        if missing and (contents.num_held_out or split != "held out"):
            parts.append(f"none {split} of {listed(missing)}")
    passed_over = [f"{count:,} {what}" for what, count in contents.passed_over.items()]
    parts += [held_out] + (["passed over " + ", ".join(passed_over)] if passed_over else [])
    return "; ".join(parts)


def _classes(records: "Records") -> Iterator[str]:
    count, counts = records.num_classes, records.contents.trained
    if count is None:
        return
    names = [_name(records, label) for label in range(count)]
    if counts:
        names = [f"{name} ({found:,})" for name, found in zip(names, counts, strict=True)]
    elif not records.class_names:
        yield f"{count:,} classes"
        return
    yield f"{count:,} class{'es' * (count > 1)}: {listed(names)}"


def _name(records: "Records", label: int) -> str:
    return records.class_names[label] if records.class_names else str(label)

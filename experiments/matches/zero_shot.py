"""Classes told by their names alone: no label is read for anything but the count."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.metrics.intervals import wilson
from diffjax.metrics.retrieval import class_embeddings
from experiments.matches.paired import TwoTowers, encode_texts, parts, unit


def report(
    towers: TwoTowers, records: Records, templates: Sequence[str], say: Callable[[str], object]
) -> dict[str, Any]:
    """Accuracy with Wilson's interval of 95%, and what each class is taken for; JSON's types.

    `confusion[i][j]` counts images of class i that are taken for class j. Raises UserError for
    records without labels or class names, and for templates that are none.
    """
    names = records.class_names
    if len(names) < 2:
        raise UserError("the data set names fewer than 2 classes: choose one with class names")

    def encode(texts: list[str]) -> np.ndarray:
        return encode_texts(towers, texts)

    classes = class_embeddings(encode, names, templates).astype(np.float64)
    confusion = np.zeros((len(names), len(names)), int)
    for rows in parts(records, range(len(records))):
        if any("label" not in row for row in rows):
            raise UserError("the data set has no labels: choose one with a label for each image")
        images = unit(towers.images(np.stack([row["image"] for row in rows])))
        taken = (images @ classes.T).argmax(1)
        np.add.at(confusion, ([int(row["label"]) for row in rows], taken), 1)
    total, right = int(confusion.sum()), int(np.trace(confusion))
    found = {
        "towers": towers.name,
        "templates": list(templates),
        "pictures": total,
        "accuracy": right / total,
        "interval": list(wilson(right, total)),
        "chance": 1 / len(names),
        "class_names": list(names),
        "confusion": confusion.tolist(),
    }
    for line in lines(found):
        say(line)
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The report, as it is printed: of each class the share right, and its largest confusion."""
    low, high = found["interval"]
    told = [
        f"{found['towers']}: zero-shot accuracy {found['accuracy']:.1%} (95%: {low:.1%} to "
        f"{high:.1%}; chance {found['chance']:.1%}), {found['pictures']:,} pictures, "
        f"{len(found['templates'])} templates"
    ]
    names, confusion = found["class_names"], np.array(found["confusion"])
    width = max(map(len, names))
    for place, (name, row) in enumerate(zip(names, confusion, strict=True)):
        if not row.sum():
            continue
        wrong = np.where(np.arange(len(row)) == place, 0, row)
        most = int(wrong.argmax())
        beside = f", {wrong[most]} taken for {names[most]}" if wrong[most] else ""
        told.append(f"{name:<{width}} {row[place] / row.sum():>7.1%} of {row.sum()}{beside}")
    return told

"""Whether classes are drawn as often, and as well, as the data have them, and what is unlike."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffjax.metrics.kernel import kernel_distance
from diffjax.metrics.precision_recall import NEIGHBOURS, precision_recall
from diffjax.runs import Run
from diffjax.tasks.denoisers import DenoiserTask
from diffjax.trust.bias import attribute_tests, frequency_tests
from experiments.evaluations import drawn
from experiments.evaluations.saved import save

LEVEL = 0.05


def tell_bias(run: Run[DenoiserTask], path: pathlib.Path) -> None:
    """Draws at each scale of --guidance, counts what the judge sees, saves and prints.

    Real images are those of the reference and of the floor, as the judge sees them, so that what it
    confuses counts on neither side. Recall and kernel distance by class are of the first scale.
    """
    scales = drawn.scales([1.0])
    drawing = drawn.Drawing(run, guided=len(scales) > 1 or scales[0] != 1)
    bench = drawn.set_up(run)
    labels = drawing.labels(bench.num)
    looks = [bench.see(drawing(bench.num, scale), labels) for scale in scales]
    both = np.concatenate([bench.reference.logits, bench.floor.logits])
    real = _counts(both)
    counts = np.stack([_counts(seen.logits) for seen in looks])
    p_values = frequency_tests(counts, real)
    names = bench.records.class_names or tuple(map(str, range(len(real))))
    by_class = [_of_class(bench, looks[0], label) for label in range(len(real))]
    print(f"{'class':<16}{'real':>8}" + "".join(f"{f'at {s:g}':>10}{'p':>8}" for s in scales)
          + f"{'recall':>10}{'floor':>8}{'kernel':>9}{'floor':>8}")  # fmt: skip
    for label, name in enumerate(names):
        row = f"{name:<16}{real[label] / real.sum():>8.3f}"
        for own, tests in zip(counts, p_values, strict=True):
            row += f"{own[label] / own.sum():>10.3f}{tests[label]:>8.2g}"
        of = by_class[label]
        for key, width, digits in (("recall", 10, 2), ("recall_real", 8, 2), ("kernel", 9, 1),
                                   ("kernel_real", 8, 1)):  # fmt: skip
            row += f"{'-':>{width}}" if of is None else f"{of[key]:>{width}.{digits}f}"
        print(row)
    unlike = int((p_values < LEVEL).sum())
    attributes = tell_attributes(bench, looks, scales)
    found = {
        "scales": scales, "classes": list(names), "real": real.tolist(), "drawn": counts.tolist(),
        "p_values": p_values.tolist(), "by_class": by_class, "attributes": attributes,
        **bench.about(run),
    }  # fmt: skip
    saved = save(path, {"bias": found})
    print(
        f"{unlike} of {p_values.size} frequencies differ from those of real images (p below "
        f"{LEVEL}, corrected for their number by Holm); {bench.num} images a scale, {saved}"
    )


def tell_attributes(
    bench: drawn.Bench, looks: Sequence[drawn.Seen], scales: Sequence[float]
) -> dict[str, Any]:
    """Says how attributes of drawn images differ from those of the reference and the floor."""
    names = list(bench.floor.attributes)
    real = np.stack([
        np.concatenate([side.attributes[name] for side in (bench.reference, bench.floor)])
        for name in names
    ])  # fmt: skip
    own = np.stack([[seen.attributes[name] for name in names] for seen in looks])
    p_values, means = attribute_tests(own, real), own.mean(-1)
    for i, name in enumerate(names):
        row = f"{name:<16}{real[i].mean():>8.3f}"
        for mean, tests in zip(means, p_values, strict=True):
            row += f"{mean[i]:>10.3f}{tests[i]:>8.2g}"
        print(row)
    return {
        "names": names, "real": real.mean(1).tolist(), "drawn": means.tolist(),
        "p_values": p_values.tolist(),
    }  # fmt: skip


def _counts(logits: np.ndarray) -> np.ndarray:
    return np.bincount(logits.argmax(1), minlength=logits.shape[1])


def _of_class(bench: drawn.Bench, seen: drawn.Seen, label: int) -> dict[str, float] | None:
    """Recall and kernel distance of what the judge takes for a class; None where there are few."""
    sets = [
        side.features.rows[side.logits.argmax(1) == label]
        for side in (bench.reference, seen, bench.floor)
    ]
    least = min(map(len, sets))
    if least <= NEIGHBOURS:
        return None
    reference, own, floor = sets
    size: dict[str, Any] = {"subset_size": least, "subsets": 1}
    return {
        "recall": precision_recall(reference, own).recall,
        "recall_real": precision_recall(reference, floor).recall,
        "kernel": kernel_distance(reference, own, **size).mean,
        "kernel_real": kernel_distance(reference, floor, **size).mean,
    }

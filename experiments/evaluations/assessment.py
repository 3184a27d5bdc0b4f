"""The course's final assessment: does a judge recognise the classes that were asked for?"""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

import diffjax.data
from diffjax.display.images import save_grid
from diffjax.errors import UserError
from diffjax.metrics.intervals import wilson
from diffjax.runs import Run
from diffjax.tasks.denoisers import DenoiserTask
from experiments.evaluations import drawn
from experiments.evaluations.held_out import BATCH_SIZE, SEED
from experiments.evaluations.judged import TITLES
from experiments.evaluations.saved import save
from experiments.flags import marking

ASKED = 0.95  # of the samples, by the course
JUDGE_ASKED = 0.99  # the judge's own accuracy on held-out images, by the course
WRONG = 25  # shown, of those that the judge takes for another class


def assess(run: Run[DenoiserTask], path: pathlib.Path) -> None:
    """Draws, asks the judge, saves and prints.

    Raises UserError for a run without classes, and a judge that is no judge of them.
    """
    scale = drawn.one_scale()
    drawing = drawn.Drawing(run, guided=scale != 1)
    bench = drawn.set_up(run)
    labels = drawing.labels(bench.num)
    if labels is None:
        raise UserError(
            "the assessment asks for classes, and this run knows none: train one that does, as "
            "experiments/flagfiles/assessment_mnist.flags"
        )
    accuracy = accuracy_of(bench)
    images = drawing(bench.num, scale)
    seen = bench.see(images, labels)
    right = seen.logits.argmax(1) == labels
    found = {
        **bench.about(run),
        **bench.compare(seen),
        "guidance_scale": scale,
        "judge_accuracy": accuracy,
        "recognised": int(right.sum()),
        "interval": list(wilson(int(right.sum()), bench.num)),
        "by_class": [float(right[labels == k].mean()) for k in range(labels.max() + 1)],
        "passed": bool(right.mean() >= ASKED),
    }
    saved = save(path, {"assessment": found})
    print(text(found, bench.num))
    with marking.marked(run.config.digest(), SEED.value):
        wrong = show_wrong(path, images, right)
    print(f"{bench.num} images of step {run.step}, {saved}{wrong}")


def accuracy_of(bench: drawn.Bench) -> float:
    """The judge's, over all that is held out. Raises UserError below what the course asks of it."""
    right = sum(
        int((bench.opinion(b["image"]).logits.argmax(1) == b["label"]).sum())
        for b in diffjax.data.epoch(bench.records, BATCH_SIZE.value)
    )
    accuracy = right / len(bench.records)
    if accuracy <= JUDGE_ASKED:
        raise UserError(
            f"--judge is right on {accuracy:.2%} of {len(bench.records)} held-out images, and the "
            f"assessment asks for more than {JUDGE_ASKED:.0%}: train it further, as "
            "experiments/flagfiles/classifier_mnist.flags"
        )
    return accuracy


def text(found: dict[str, Any], num: int) -> str:
    """What came of it."""
    low, high = found["interval"]
    samples, real = found["samples"], found["real"]
    shares = samples["class_shares"]
    worst = int(np.argmin(found["by_class"]))
    beside = [
        f"{title} {samples[name]:.3f} (real images {real[name]:.3f})"
        for name, title in TITLES.items()
        if name in samples["intervals"]
    ]
    return "\n".join(
        [
            f"recognised {found['recognised']} of {num}: {found['recognised'] / num:.1%} "
            f"(95% of such draws between {low:.1%} and {high:.1%}), by a judge that is right on "
            f"{found['judge_accuracy']:.2%} of real images",
            f"{'passed' if found['passed'] else 'not passed'}: the course asks for {ASKED:.0%}; "
            f"least often recognised is class {worst}, {found['by_class'][worst]:.1%}",
            ", ".join([*beside, f"shares of classes {min(shares):.3f} to {max(shares):.3f}"]),
        ]
    )


def show_wrong(
    path: pathlib.Path, images: UInt8[np.ndarray, "N H W C"], right: Bool[np.ndarray, "N"]
) -> str:
    """Draws some of those not recognised, if any, and says where."""
    if right.all():
        return ""
    save_grid(path.with_name("assessment_wrong.png"), images[~right][:WRONG])
    return "; those not recognised are in assessment_wrong.png"

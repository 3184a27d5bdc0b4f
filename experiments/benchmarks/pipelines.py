"""Stable Diffusion from a folder, beside torch and diffusers: seconds and memory of an image.

python -m experiments.benchmark pipelines --steps=4

The folder has random weights of Stable Diffusion 1.5's shape and is written once. Each side loads
it in a process of its own and draws from the same latents, in turns. On a CPU both compute in
float32 on all cores, and memory is the most that a process has held; on a GPU both compute in
bfloat16, torch compiled, and memory is what lies on it.
"""

import pathlib
import statistics
import sys
from typing import Any

import numpy as np
from absl import flags

from diffjax.errors import UserError
from experiments.flags import kinds
from experiments.measurements import measuring, torch_peer
from experiments.measurements.pipeline_sides import OURS, TORCH, Drawing, Side

REACH = 1.2  # times as fast as torch
TINY = flags.DEFINE_boolean("tiny", False, "a tiny pipeline, which shows nothing but that it runs")
STEPS = kinds.define_integer("steps", 4, "sampling steps of an image", lower_bound=1)
IMAGES = kinds.define_integer("images", 1, "images that are drawn at once", lower_bound=1)
ROUNDS = kinds.define_integer("rounds", 3, "times that both sides take turns", lower_bound=1)
OUT = kinds.define_path("out", "benchmark", "the folder to write; the pipeline lies in it too")


def main() -> None:
    torch_peer.libraries()  # before what takes minutes
    if sys.platform != "linux":
        raise UserError("memory is measured on Linux alone")
    shape = torch_peer.TINY if TINY.value else torch_peer.SD15
    out = pathlib.Path(OUT.value)
    folder = out / ("pipeline_tiny" if TINY.value else "pipeline_sd15")
    if not folder.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        torch_peer.write_pipeline(folder, shape)
    drawing = Drawing(folder, shape["unet"]["sample_size"], IMAGES.value, STEPS.value)
    found = measure(drawing)
    measuring.save(out, "pipelines", {"steps": STEPS.value, "images": IMAGES.value, **found}, None)
    print(line(found))
    print(f"in {out}")


def measure(drawing: Drawing) -> dict[str, Any]:
    """Seconds and bytes of each side, how many times as fast and as small we are, and how alike.

    `difference` is the largest between the sides' images, of 255.
    """
    sides = {name: Side(name, drawing) for name in (OURS, TORCH)}
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS.value):
        for name, side in sides.items():
            taken[name].append(side.draw())
    held = {name: side.finish() for name, side in sides.items()}
    ratios = [theirs / ours for theirs, ours in zip(taken[TORCH], taken[OURS], strict=True)]
    ours, theirs = (sides[name].ready.images for name in (OURS, TORCH))
    return {
        "reach": REACH,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds": {name: statistics.median(seconds) for name, seconds in taken.items()},
        "first_seconds": sides[OURS].ready.first,
        "bytes": held,
        "smaller": held[TORCH] / held[OURS],
        "difference": 255 / 2 * float(np.abs(ours - theirs).max()),
    }


def line(found: dict[str, Any]) -> str:
    """The result in words."""
    seconds, held, spread = found["seconds"], found["bytes"], found["ratios"]
    return (
        f"{IMAGES.value} images of {STEPS.value} steps: {OURS} {seconds[OURS]:.4g} s (the first "
        f"{found['first_seconds']:.4g} s), {TORCH} {seconds[TORCH]:.4g} s, {found['ratio']:.2f} "
        f"times as fast (reach {REACH}, {min(spread):.2f} to {max(spread):.2f}); at most "
        f"{held[OURS] / 1e9:.3g} and {held[TORCH] / 1e9:.3g} GB, {found['smaller']:.2f} times as "
        f"small; images differ by {found['difference']:.3g} of 255 at most"
    )

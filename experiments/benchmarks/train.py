"""Where the time of a train step goes, part by part, against what this machine can do.

python -m experiments.benchmark train --model=greyscale --variant=float32 --variant=remat

A part's roof is the time that its multiplications take at the rate of a large matrix product, or
its arrays at the bandwidth of memory, whichever is longer; arrays that stay in a cache go faster.
"""

import pathlib
import statistics
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from diffjax.errors import UserError
from experiments.flags import kinds
from experiments.measurements import measuring, profiling
from experiments.measurements.measuring import CompiledStep
from experiments.measurements.profiling import Part

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "remat": {"remat": True},
}
MODEL = flags.DEFINE_string(
    "model", "cifar10", f"{', '.join(measuring.NETWORKS)} or a spec: unet(sample_size=32, ...)"
)
VARIANT = flags.DEFINE_multi_enum(
    "variant", ["float32"], list(VARIANTS), "give it as often as variants are to be compared"
)
BATCH_SIZE = kinds.define_integer("batch_size", 4, "images a step", lower_bound=1)
STEPS = kinds.define_integer("steps", 3, "steps that are profiled", lower_bound=1)
ROUNDS = kinds.define_integer("rounds", 5, "times that all variants take turns", lower_bound=1)
OUT = kinds.define_path("out", "benchmark", "the folder to write")


class Row(NamedTuple):
    """A variant of the train step."""

    variant: str
    seconds: float  # median of rounds, unprofiled
    rounds: list[float]
    images_per_second: float
    flops: int  # what is recomputed is of no use and not counted
    peak: float  # FLOP/s of a matrix product in the variant's compute type
    bandwidth: float  # bytes/s of memory
    share_of_peak: float
    temporary_bytes: int
    profiled_seconds: float
    parts: list[Part]

    def roof(self, part: Part) -> float:
        """The least seconds that the part could take on this machine."""
        return max(part.flops / self.peak, part.bytes / self.bandwidth)


def main() -> None:
    # Else a program is found in the cache whose scopes are those of an older source.
    jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
    models = {name: build(name) for name in dict.fromkeys(VARIANT.value)}
    steps = {name: CompiledStep(model, BATCH_SIZE.value) for name, model in models.items()}
    taken = measuring.interleaved(steps, ROUNDS.value, span=0.2)
    bandwidth = measuring.memory_bandwidth()
    rows = [
        measure(
            name, step, taken[name], measuring.matmul_peak(models[name].compute_dtype), bandwidth
        )
        for name, step in steps.items()
    ]
    values = {
        "model": MODEL.value,
        "batch_size": BATCH_SIZE.value,
        "variants": [as_json(row) for row in rows],
    }
    out = pathlib.Path(OUT.value)
    measuring.save(out, "train", values, plot(rows))
    for row in rows:
        print(table(row), end="\n\n")
    print(summary(rows))
    print(f"{MODEL.value}, batch {BATCH_SIZE.value}, memory {bandwidth / 1e9:.1f} GB/s; in {out}")


def build(variant: str) -> Any:
    """The variant's model. Raises UserError where it cannot be had of --model."""
    model = measuring.build(MODEL.value, **VARIANTS[variant])
    measuring.image_shape(model)
    for option, value in VARIANTS[variant].items():
        found = getattr(model, option, None)
        if found != value:
            raise UserError(
                f"--variant={variant} needs a model with {option}={value!r} and this one has "
                f"{found!r}: leave {option} out of --model, or measure another variant"
            )
    return model


def measure(
    name: str, step: CompiledStep, rounds: list[float], peak: float, bandwidth: float
) -> Row:
    program = profiling.instructions(step.compiled.as_text() or "")
    ran = profiling.traced(step, STEPS.value)
    parts = profiling.parts_of(program, ran, step.products, STEPS.value)
    seconds = statistics.median(rounds)
    useful = sum(part.flops for part in parts if part.part != "recomputation")
    span = max(each.end for each in ran) - min(each.start for each in ran)
    return Row(
        variant=name,
        seconds=seconds,
        rounds=rounds,
        images_per_second=BATCH_SIZE.value / seconds,
        flops=useful,
        peak=peak,
        bandwidth=bandwidth,
        share_of_peak=useful / seconds / peak,
        temporary_bytes=step.temporary_bytes,
        profiled_seconds=span / STEPS.value,
        parts=parts,
    )


def as_json(row: Row) -> dict[str, object]:
    parts = [{**part._asdict(), "roof": row.roof(part)} for part in row.parts]
    return {**row._asdict(), "parts": parts}


def table(row: Row) -> str:
    """The parts of a variant."""
    lines = [
        f"{row.variant}: {1e3 * row.seconds:.1f} ms a step, {1e3 * row.profiled_seconds:.1f} ms "
        f"profiled; matrix products {row.peak / 1e9:.0f} GFLOP/s",
        f"{'part':<22}{'ms':>9}{'share':>8}{'GFLOP/s':>9}{'of peak':>9}{'GB/s':>8}"
        f"{'roof ms':>9}{'over':>7}",
    ]
    for part in row.parts:
        name, seconds, flops, moved = part
        line = f"{name:<22}{1e3 * seconds:>9.2f}{seconds / row.profiled_seconds:>8.1%}"
        if seconds and (roof := row.roof(part)):
            rate = flops / seconds
            line += f"{rate / 1e9:>9.0f}{rate / row.peak:>9.0%}" if flops else " " * 18
            line += f"{moved / seconds / 1e9:>8.1f}{1e3 * roof:>9.2f}{seconds / roof:>6.1f}x"
        lines.append(line)
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """The variants side by side, with ratios to the first."""
    lines = [
        f"{'variant':<12}{'ms':>9}{'ratio':>7}{'steps/s':>9}{'images/s':>10}{'TFLOP/s':>9}"
        f"{'of peak':>9}{'temp MiB':>10}{'ratio':>7}"
    ]
    for row in rows:
        pairs = zip(row.rounds, rows[0].rounds, strict=True)
        ratio = statistics.median(own / first for own, first in pairs)
        lines.append(
            f"{row.variant:<12}{1e3 * row.seconds:>9.1f}{ratio:>7.2f}"
            f"{1 / row.seconds:>9.2f}{row.images_per_second:>10.1f}"
            f"{row.flops / row.seconds / 1e12:>9.3f}{row.share_of_peak:>9.0%}"
            f"{row.temporary_bytes / 2**20:>10.1f}"
            f"{row.temporary_bytes / rows[0].temporary_bytes:>7.2f}"
        )
    return "\n".join(lines)


def plot(rows: list[Row]) -> Figure:
    """A bar a variant, its parts in turn, and below it their roofs."""
    figure = Figure(figsize=(11, max(4.4, 1.5 + 1.1 * len(rows))), dpi=120, layout="constrained")
    axes = figure.subplots()
    left = np.zeros(2 * len(rows))
    for i, name in enumerate(dict.fromkeys(part.part for row in rows for part in row.parts)):
        found = [{part.part: part for part in row.parts}.get(name) for row in rows]
        pairs = [
            (part.seconds, row.roof(part)) if part else (0, 0)
            for row, part in zip(rows, found, strict=True)
        ]
        widths = 1e3 * np.ravel(pairs)
        bars = axes.barh(range(len(left)), widths, left=left, color=f"C{i % 10}", label=name)
        for bar in bars:
            bar.set(hatch="/" * (i // 10), edgecolor="white", lw=0.5)
        left += widths
    axes.set_yticks(range(len(left)), [n for row in rows for n in (row.variant, "its roof")])
    axes.invert_yaxis()
    axes.set(xlabel=f"milliseconds a step of {BATCH_SIZE.value} images", title=MODEL.value[:80])
    figure.legend(loc="outside right upper")
    return figure

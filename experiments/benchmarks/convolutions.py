"""Which way of computing a convolution is quickest on this machine's CPU, shape by shape.

python -m experiments.benchmark convolutions
python -m experiments.benchmark convolutions --run=DIR      the shapes of one run, in two minutes

With --run the table is kept only where a whole train step of that run is faster with it: a
convolution that is timed alone has a warm cache, and its gain is not the network's.

The table goes into the user's cache folder, where every program of this library finds it from its
next start; delete it to go back to the one that comes with the library.
"""

import functools
import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags
from jax import Array
from tqdm import tqdm

from diffjax.display.environment import environment
from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.models.convolution.choice import OPERATIONS, PATHS, TUNED, Measured, table, tried
from diffjax.models.convolution.window import Window
from diffjax.processor import processor
from experiments.flags import cpu_devices, kinds
from experiments.measurements import measuring
from experiments.measurements.run_step import FASTER, RunStep, changes, is_faster

flags.adopt_module_key_flags(cpu_devices)
OUT = kinds.define_path("out", None, f"the table's file; by default {TUNED}")
BATCH = kinds.define_integers("batch", [1, 4, 32], "batches to measure", lower_bound=1)
SIZE = kinds.define_integers("size", [4, 8, 16, 32], "heights and widths", lower_bound=1)
WIDTH = kinds.define_integers("width", [32, 64, 128, 256], "channels", lower_bound=1)
RUN = kinds.define_path("run", None, "a run whose shapes are measured, and whose step must gain")
DATA_DIR = kinds.define_path("data_dir", None, "with --run: where prepared TFDS sets lie")
SECONDS = kinds.define_number("seconds", 90.0, "with --run: how long convolutions are timed", 0)
STEP_ROUNDS, STEP_SPAN = 7, 1.0
GAIN = 1.1  # what another way must save over the direct one: winograd4 errs five times as much
ROUNDS = 7
MACHINE = ("date", "jax", "jaxlib", "cpu", "cores")  # what the times depend on
SPAN = 0.01  # seconds a round and path


class Shape(NamedTuple):
    """A convolution of square images that halves or keeps their size."""

    kernel: int
    stride: int
    batch: int
    size: int
    inputs: int
    outputs: int

    @property
    def window(self) -> Window:
        low, high = self.kernel // 2, (self.kernel - 1) // 2
        # As this library's layers pad: those that halve begin at the first pixel.
        pad = (0, high) if self.stride > 1 else (low, high)
        return Window((self.kernel,) * 2, (self.stride,) * 2, (pad, pad))


def main() -> None:
    out = pathlib.Path(OUT.value or TUNED)
    if out.is_dir():
        raise UserError(f"--out={out} is a folder: name a file in it")
    if RUN.value is not None:
        measure_run(out)
        return
    for flag in (DATA_DIR, SECONDS, cpu_devices.CPU_DEVICES):
        if flag.present:
            raise UserError(f"--{flag.name} does nothing without --run")
    out.parent.mkdir(parents=True, exist_ok=True)  # before what takes minutes
    work = [(operation, shape) for shape in shapes() for operation in OPERATIONS]
    with jax.default_device(jax.devices("cpu")[0]):  # also where there is a quicker one
        rows = [quickest(*item) for item in tqdm(work, disable=None)]
    save(out, rows)
    counts = {name: sum(row.path == name for row in rows) for name in PATHS}
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    print(f"{len(rows)} measurements in {out}")


def save(out: pathlib.Path, rows: Sequence[Measured]) -> None:
    """Writes a table."""
    values: dict[str, Any] = {
        "environment": {**{n: environment()[n] for n in MACHINE}, "kind": processor()},
        "columns": Measured._fields,
        "rows": rows,
    }
    write_text(out, as_text(values))


def measure_run(out: pathlib.Path) -> None:
    """A table for one run: its own shapes measured, all others as they were."""
    for flag in (BATCH, SIZE, WIDTH):
        if flag.present:
            raise UserError(
                f"--{flag.name} does nothing with --run, which has its own: leave it out"
            )
    cpu_devices.split_cpu(cpu_devices.cores())
    if jax.default_backend() != "cpu":
        raise UserError("ways are chosen on a CPU alone: set JAX_PLATFORMS=cpu")
    step, before = RunStep(str(RUN.value), DATA_DIR.value), table()
    with tried(before) as trial:
        calls = {"before": step.compile()}
    found, until = [], time.perf_counter() + SECONDS.value
    for asked in tqdm(trial.asked, disable=None):
        if time.perf_counter() < until:
            found.append(quickest(asked.operation, Shape(*asked[1:7])))
    measured = {row[:7] for row in found}
    rows = (*found, *(row for row in before if row[:7] not in measured))
    with tried(rows):
        calls["after"] = step.compile()
    taken = measuring.interleaved(calls, STEP_ROUNDS, STEP_SPAN)
    ratios = [a / b for a, b in zip(taken["before"], taken["after"], strict=True)]
    ratio, changed = statistics.median(ratios), changes(trial.asked, found)
    print(
        f"{len(found)} of {len(trial.asked)} shapes measured, {changed} go another way; a train "
        f"step takes {1000 * min(taken['before']):.0f} ms before and "
        f"{1000 * min(taken['after']):.0f} ms after: {ratio:.2f} times as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    if not is_faster(ratios):
        print(
            f"the table stays as it was: the step must be {FASTER} times as fast, and no slower in "
            "three rounds of four"
        )
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    save(out, rows)
    print(f"{len(rows)} measurements in {out}")


def shapes() -> Iterator[Shape]:
    """Those of a U-Net: blocks, with and without a state put beside, ends, shortcuts, halvings."""
    for batch, size, width in itertools.product(BATCH.value, SIZE.value, WIDTH.value):
        yield Shape(3, 1, batch, size, width, width)
        yield Shape(3, 1, batch, size, 2 * width, width)
        yield Shape(1, 1, batch, size, 2 * width, width)
        if size % 2 == 0:
            yield Shape(3, 2, batch, size, width, width)
    for batch, width in itertools.product(BATCH.value, {min(WIDTH.value), max(WIDTH.value)}):
        yield Shape(3, 1, batch, max(SIZE.value), 3, width)
        yield Shape(3, 1, batch, max(SIZE.value), width, 3)


def quickest(operation: str, shape: Shape) -> Measured:
    """The path to take, and how many times as quick as the direct one it was."""
    calls = {name: call(operation, shape, name) for name in PATHS}
    able = {name: made for name, made in calls.items() if made is not None}
    taken = measuring.interleaved(able, ROUNDS, SPAN)
    seconds = {name: min(times) for name, times in taken.items()}
    name = min(seconds, key=lambda name: seconds[name])
    if seconds["direct"] < GAIN * seconds[name]:
        name = "direct"
    return Measured(operation, *shape, name, round(seconds["direct"] / seconds[name], 2))


def call(operation: str, shape: Shape, name: str) -> Callable[[], Array] | None:
    """The operation, compiled, on normal numbers; None where the path cannot serve the shape."""
    path, window = PATHS[name], shape.window
    if not path.takes(window):
        return None
    size = (shape.size, shape.size)
    x = jax.random.normal(jax.random.key(0), (shape.batch, *size, shape.inputs))
    w = jax.random.normal(jax.random.key(1), (*window.kernel, shape.inputs, shape.outputs))
    dy = jax.random.normal(jax.random.key(2), (shape.batch, *window.outputs(size), shape.outputs))
    made: dict[str, tuple[Callable[..., Array], tuple[Array, ...]]] = {
        "forward": (lambda x, w: path.forward(x, w, window), (x, w)),
        "input_gradient": (lambda dy, w: path.input_gradient(dy, w, window, size), (dy, w)),
        "weight_gradient": (lambda x, dy: path.weight_gradient(x, dy, window), (x, dy)),
    }
    function, arrays = made[operation]
    return functools.partial(jax.jit(function).lower(*arrays).compile(), *arrays)


def as_text(values: dict[str, Any]) -> str:
    """JSON with a row a line, as tables are read and compared."""
    rows = ",\n".join("  " + json.dumps(row) for row in values["rows"])
    head = json.dumps({name: value for name, value in values.items() if name != "rows"}, indent=1)
    return head.removesuffix("\n}") + f',\n "rows": [\n{rows}\n ]\n}}\n'

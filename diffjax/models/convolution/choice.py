"""Which way a convolution takes on a CPU: the one that was quickest on the nearest measured shape.

Tables come with the library, one for each kind of processor that was measured. Another one,
measured on this machine and put into the user's cache folder, is used instead from the next start.
"""

import contextlib
import contextvars
import functools
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import platformdirs

from diffjax.models.convolution.direct import Direct
from diffjax.models.convolution.im2col import Im2col
from diffjax.models.convolution.phases import Phases
from diffjax.models.convolution.window import Path, Window
from diffjax.models.convolution.winograd import Winograd
from diffjax.processor import nearest, processor

# Numbers of an image, before and after: beyond them, ten times the numbers of small measured
# images, a way must take a part of an image at a time, or it keeps gigabytes of tiles or patches.
LARGEST = 2**23
IN_PARTS = {
    "forward": {"direct", "winograd2", "winograd4"},
    "input_gradient": {"direct", "phases", "winograd2", "winograd4"},
    "weight_gradient": {"direct", "phases"},
}
OPERATIONS = ("forward", "input_gradient", "weight_gradient")
PATHS: dict[str, Path] = {
    "direct": Direct(),
    "im2col": Im2col(),
    "phases": Phases(),
    "winograd2": Winograd(2),
    "winograd4": Winograd(4),
}
MEASURED = pathlib.Path(__file__).parent / "measured"
DEFAULT = "amd_avx512"
TUNED = platformdirs.user_cache_path("diffjax") / "convolutions.json"
Kind = tuple[str, tuple[int, int], tuple[int, int]]


class Measured(NamedTuple):
    """A shape and what was quickest for it."""

    operation: str
    kernel: int
    stride: int
    batch: int
    size: int  # height and width
    inputs: int
    outputs: int
    path: str
    gain: float  # the direct way's time over its own


class Trial(NamedTuple):
    """A table that is tried, and the questions that programs ask of it meanwhile."""

    rows: tuple[Measured, ...]
    asked: dict[Measured, None]  # of each question the answer, in the order in which they came


_TRIAL: contextvars.ContextVar[Trial | None] = contextvars.ContextVar("_TRIAL", default=None)


@contextlib.contextmanager
def tried(rows: tuple[Measured, ...]) -> Iterator[Trial]:
    """Programs that are traced meanwhile take their ways from these rows; what they ask is told."""
    token = _TRIAL.set(trial := Trial(rows, {}))
    try:
        yield trial
    finally:
        _TRIAL.reset(token)


def choose(operation: str, x: Sequence[int], w: Sequence[int], window: Window) -> Path:
    """The path for images of shape `x`, BHWC, and a kernel of shape `w`, HWIO."""
    if (trial := _TRIAL.get()) is None:
        return PATHS[_name(operation, x, w, window, table())]
    name = _name(operation, x, w, window, trial.rows)
    if window.kernel[0] == window.kernel[1] and window.strides[0] == window.strides[1]:
        size = round(math.sqrt(x[1] * x[2]))
        kernel, stride = window.kernel[0], window.strides[0]
        trial.asked[Measured(operation, kernel, stride, x[0], size, w[2], w[3], name, 1.0)] = None
    return PATHS[name]


def _name(
    operation: str,
    x: Sequence[int],
    w: Sequence[int],
    window: Window,
    measured: tuple[Measured, ...],
) -> str:
    """The path's name by these rows."""
    large = x[1] * x[2] * (w[2] + w[3]) > LARGEST
    able = IN_PARTS[operation] if large else PATHS.keys()
    able = {name for name in able if PATHS[name].takes(window)}
    rows = _comparable(measured).get((operation, window.kernel, window.strides), ())
    near = [row for row in rows if row.path in able]
    if not near or 0 in x:  # no images, no choice
        return _unmeasured(operation, window)
    shape = (x[0], math.sqrt(x[1] * x[2]), w[2], w[3])
    # How many doublings lie between, all in all. No function of its own: under test each call of
    # one is checked, and these are many.
    best = min(
        near,
        key=lambda row: sum(abs(math.log2(a / b)) for a, b in zip(row[3:7], shape, strict=True)),
    )
    return best.path


def _unmeasured(operation: str, window: Window) -> str:
    """The way of a window that no row is of: gradients of strided ones are far slower directly."""
    strided = operation != "forward" and PATHS["phases"].takes(window)
    return "phases" if strided else "direct"


@functools.cache
def table() -> tuple[Measured, ...]:
    """This machine's own measurements where there are any, else those of the library."""
    try:
        return _read(TUNED)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        print(
            f"{TUNED} is not used ({type(error).__name__}: {error}): "
            "measure a new one or delete it",
            file=sys.stderr,
        )
    return _read(shipped(processor()))


def shipped(kind: str) -> pathlib.Path:
    """The table that comes with the library for a kind of processor."""
    names = [path.stem for path in MEASURED.glob("*.json")]
    return MEASURED / f"{nearest(kind, names, DEFAULT)}.json"


def _read(path: pathlib.Path) -> tuple[Measured, ...]:
    """Raises OSError, ValueError, TypeError or KeyError for what is no such table."""
    values = json.loads(path.read_text())
    rows = tuple(
        Measured(**dict(zip(values["columns"], row, strict=True))) for row in values["rows"]
    )
    for row in rows:
        if row.path not in PATHS or min(row[1:7]) < 1:
            raise ValueError(f"no path or no shape: {row}")
    return rows


@functools.cache
def _comparable(rows: tuple[Measured, ...]) -> dict[Kind, list[Measured]]:
    """The rows by operation, kernel and strides."""
    found: dict[Kind, list[Measured]] = {}
    for row in rows:
        kind = row.operation, (row.kernel,) * 2, (row.stride,) * 2
        found.setdefault(kind, []).append(row)
    return found

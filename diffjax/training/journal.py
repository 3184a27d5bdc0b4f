"""What a run says of itself: metrics.jsonl, TensorBoard events, and progress on the terminal."""

import contextlib
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import tqdm

from diffjax.files import write_text
from diffjax.training.events import Events

METRICS, SPEED = "metrics.jsonl", "speed.jsonl"
HELD_OUT = "held_out.jsonl"  # what a preview measures


class Log:
    """What the loop tells of its steps. This one keeps silent: of several processes, one speaks.

    `window` is what was measured since the last line: a checkpoint keeps it.
    """

    def __init__(self, window: Sequence[Any] = ()) -> None:
        self._window: list[dict[str, float]] = list(window)

    @property
    def window(self) -> list[dict[str, float]]:
        """A copy: a checkpoint is still being written when training has gone on."""
        return list(self._window)

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Metrics of the steps of one dispatch, one entry a step; of a skipped one only that."""
        for i, skipped in enumerate(metrics["skipped"]):
            one = {k: float(v[i]) for k, v in metrics.items()}
            self._window.append({"skipped": 1.0} if skipped else one)

    def write(self, step: int) -> None:
        """One line for the window that ends at `step`."""
        self._window.clear()

    def digest(self) -> str | None:
        """A checksum of what has been written, for the next checkpoint; None where nothing is."""
        return None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done meanwhile out of the speed."""
        yield


class Journal(Log):
    """Writes a line of metrics for each window of steps: means, and the number skipped.

    metrics.jsonl holds only what the run's flags determine, so that a resumed run writes the same
    bytes; the speed goes to speed.jsonl, TensorBoard and the terminal. `digest` is that of
    the lines up to `step` as written: if they are others now, this is said.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        step: int,
        steps: int,
        batch_size: int,
        window: Sequence[Any] = (),
        digest: str | None = None,
    ) -> None:
        super().__init__(window)
        self._batch_size, self._steps = batch_size, steps
        self._path = folder / METRICS
        for name in (METRICS, SPEED):
            keep_until(folder / name, step)
        if digest not in (None, self.digest()):
            print(f"{self._path} has changed since it was written", file=sys.stderr)
        self._file, self._speeds = (folder / METRICS).open("a"), (folder / SPEED).open("a")
        self._events = Events(folder / "tensorboard", step)
        self._bar = tqdm.tqdm(
            initial=step,
            total=steps,
            unit=" steps",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._clock, self._clock_step = time.perf_counter(), step

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._events.close()
        self._speeds.close()
        self._file.close()

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        super().add(metrics)
        self._bar.update(len(metrics["skipped"]))

    def write(self, step: int) -> None:
        means = window_means(self._window)
        super().write(step)
        _append(self._file, {"step": step, **means})
        now = time.perf_counter()
        speed = (step - self._clock_step) / max(now - self._clock, 1e-9)
        self._clock, self._clock_step = now, step
        speeds = {"steps_per_s": speed, "images_per_s": speed * self._batch_size}
        _append(self._speeds, {"step": step, **speeds})
        self._events.add(step, {**means, **speeds})
        self._show(step, means, speed)

    def digest(self) -> str | None:
        if not self._path.exists():
            return hashlib.sha256().hexdigest()
        return hashlib.sha256(self._path.read_bytes()).hexdigest()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        since = time.perf_counter()
        yield
        self._clock += time.perf_counter() - since

    def _show(self, step: int, means: dict[str, float | int], speed: float) -> None:
        images = f"{speed * self._batch_size:.0f} images/s"
        loss = f"loss {means['loss']:.4f}" if "loss" in means else "no update"
        if means["skipped"]:
            loss += f"  {means['skipped']} skipped"
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{images}, {loss}")
            return
        left = tqdm.tqdm.format_interval(int((self._steps - step) / max(speed, 1e-9)))
        print(
            f"step {step}/{self._steps}  {loss}  {speed:.2f} steps/s  {images}  {left} left",
            file=sys.stderr,
            flush=True,
        )


def window_means(window: Sequence[dict[str, float]]) -> dict[str, float | int]:
    """The mean of each metric over the steps that were not skipped, and the number of those."""
    kept = [entry for entry in window if not entry["skipped"]]
    means = {k: float(np.mean([entry[k] for entry in kept])) for k in (kept[0] if kept else ())}
    return {**means, "skipped": len(window) - len(kept)}


def _append(file: IO[str], entry: dict[str, float | int]) -> None:
    file.write(json.dumps(entry) + "\n")
    file.flush()


def add_line(path: pathlib.Path, step: int, found: Mapping[str, float]) -> None:
    """Adds figures to a file of JSON lines, in place of what it has of this step and later ones."""
    keep_until(path, step - 1)
    with path.open("a") as file:
        file.write(json.dumps({"step": step, **found}) + "\n")


def keep_until(path: pathlib.Path, step: int) -> None:
    """Drops the lines after `step`, and one that a dead run left half written.

    Another line that cannot be read is dropped too, and named on stderr.
    """
    if not path.exists():
        return
    lines, kept = path.read_text(errors="replace").splitlines(), []
    for number, line in enumerate(lines, 1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                print(f"{path} line {number} cannot be read and was dropped", file=sys.stderr)
    write_text(path, "".join(kept))

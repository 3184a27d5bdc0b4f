"""What a run says of itself: metrics.jsonl, TensorBoard events, and progress on the terminal."""

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

# tensorboardX imports torch wherever it is installed, for tensors that never come: seconds lost.
_hide_torch = "torch" not in sys.modules
if _hide_torch:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    import tensorboardX
finally:
    if _hide_torch:
        del sys.modules["torch"]


class Journal:
    """Writes a line of metrics for each window of steps, the mean over the window.

    metrics.jsonl holds only what the run's flags determine, so that a resumed run writes the same
    bytes; speed goes to TensorBoard and the terminal. `window` is what was measured since the last
    line: a checkpoint keeps it.
    """

    def __init__(
        self, folder: pathlib.Path, *, step: int, steps: int, batch_size: int, window: Sequence[Any]
    ) -> None:
        self.window: list[dict[str, float]] = list(window)
        self._batch_size, self._steps = batch_size, steps
        path = folder / "metrics.jsonl"
        keep_until(path, step)
        self._file = path.open("a")
        self._events = tensorboardX.SummaryWriter(
            str(folder / "tensorboard"), purge_step=step + 1 if step else None
        )
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
        self._file.close()

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Metrics of the steps of one dispatch, one entry a step."""
        count = len(next(iter(metrics.values())))
        self.window += [{k: float(v[i]) for k, v in metrics.items()} for i in range(count)]
        self._bar.update(count)

    def write(self, step: int) -> None:
        """One line for the window that ends at `step`."""
        means = {k: float(np.mean([m[k] for m in self.window])) for k in self.window[0]}
        self.window.clear()
        self._file.write(json.dumps({"step": step, **means}) + "\n")
        self._file.flush()
        now = time.perf_counter()
        speed = (step - self._clock_step) / max(now - self._clock, 1e-9)
        self._clock, self._clock_step = now, step
        for name, value in {**means, "steps_per_s": speed}.items():
            self._events.add_scalar(name, value, step)
        self._show(step, means["loss"], speed)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done meanwhile out of the speed."""
        since = time.perf_counter()
        yield
        self._clock += time.perf_counter() - since

    def _show(self, step: int, loss: float, speed: float) -> None:
        images = f"{speed * self._batch_size:.0f} images/s"
        if not self._bar.disable:
            self._bar.set_postfix_str(f"{images}, loss {loss:.4f}")
            return
        left = tqdm.tqdm.format_interval(int((self._steps - step) / max(speed, 1e-9)))
        print(
            f"step {step}/{self._steps}  loss {loss:.4f}  {speed:.2f} steps/s  {images}  "
            f"{left} left",
            file=sys.stderr,
            flush=True,
        )


def keep_until(path: pathlib.Path, step: int) -> None:
    """Drops the lines of metrics after `step`, and one that a dead run left half written."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        if entry["step"] > step:
            break
        kept.append(line + "\n")
    part = path.with_suffix(".part")
    part.write_text("".join(kept))
    os.replace(part, path)

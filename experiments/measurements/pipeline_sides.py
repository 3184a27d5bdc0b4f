"""The sides of `experiments.benchmark pipelines`, each in a process of its own."""

import contextlib
import dataclasses
import multiprocessing
import pathlib
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffjax as dj
from diffjax.errors import UserError
from experiments.measurements import measuring, torch_peer

PROMPT, GUIDANCE = "a red apple on a table", 7.5
OURS, TORCH = "diffjax", "torch"
Call = Callable[[], np.ndarray]  # images NHWC in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What both sides draw: images of `side` latents a side, from a folder."""

    folder: pathlib.Path
    side: int
    images: int
    steps: int

    @property
    def latents(self) -> np.ndarray:
        """Unit noise, NHWC, the same for both sides."""
        shape = (self.images, self.side, self.side, 4)
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def ours(self) -> Call:
        pipe = dj.load_pipeline(self.folder)
        options: dict[str, Any] = {
            "guidance": GUIDANCE, "steps": self.steps, "latents": jnp.asarray(self.latents),
            "height": 8 * self.side, "width": 8 * self.side, "batch_size": self.images,
        }  # fmt: skip
        return lambda: np.asarray(pipe.sample([PROMPT] * self.images, **options))

    def theirs(self) -> Call:
        prompts = [PROMPT] * self.images
        return torch_peer.pipeline(self.folder, prompts, self.latents, self.steps, GUIDANCE)


class Ready(NamedTuple):
    """A side that has drawn once: in how many seconds, with compilation, and the images."""

    first: float
    images: np.ndarray


class Side:
    """A process that loads a folder, draws once, and then whenever it is told to."""

    def __init__(self, name: str, drawing: Drawing) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(name, drawing, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.ready: Ready = self._received()

    def draw(self) -> float:
        """Seconds of a draw."""
        self._connection.send(True)
        return float(self._received())

    def finish(self) -> int:
        """Ends the process. The most bytes that it held, its libraries and its start included."""
        self._connection.send(False)
        peak = int(self._received())
        self._process.join()
        return peak

    def _received(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError as error:
            self._process.join()
            raise UserError(
                f"the process of {self._name} ended with {self._process.exitcode}: see above, or "
                "measure where there is more memory"
            ) from error


def serve(name: str, drawing: Drawing, connection: Connection) -> None:
    """A side's process."""
    call = drawing.ours() if name == OURS else drawing.theirs()
    start = time.perf_counter()
    images = call()
    connection.send(Ready(time.perf_counter() - start, images))
    with contextlib.suppress(EOFError):  # where the other side, and so the benchmark, has ended
        while connection.recv():
            start = time.perf_counter()
            call()
            connection.send(time.perf_counter() - start)
        connection.send(_peak(name))


def _peak(name: str) -> int:
    """On a CPU of the whole process, on an accelerator of what lies there."""
    if jax.default_backend() == "cpu":
        return measuring.resident("VmHWM")
    if name == TORCH:
        return torch_peer.accelerator_peak()
    return int((jax.local_devices()[0].memory_stats() or {})["peak_bytes_in_use"])

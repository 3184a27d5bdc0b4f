"""Being asked to stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[int], bool]]:
    """Gives a function of the step that turns true after Ctrl-C or SIGTERM.

    Of several processes one signalled is enough: the function turns true at the same step in all. A
    second signal ends the process.
    """
    asked = threading.Event()
    many = jax.distributed.is_initialized()
    # Among several processes JAX listens for SIGTERM, and finds a step that none has passed.
    numbers = (signal.SIGINT,) if many else (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        if many:
            os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, ask)
    try:
        if many:
            yield multihost_utils.reached_preemption_sync_point
        else:
            yield lambda step: asked.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

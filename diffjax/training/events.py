"""Scalars for TensorBoard."""

import pathlib
import sys
import time
from collections.abc import Mapping

# tensorboardX imports torch wherever it is installed, for tensors that never come: seconds lost.
_hide_torch = "torch" not in sys.modules
if _hide_torch:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar
finally:
    if _hide_torch:
        del sys.modules["torch"]


class Events:
    """An event file of this start, for the steps after `step`; those that another wrote are void.

    Written at once: tensorboardX's SummaryWriter has a thread, which a full disk ends unseen.
    """

    def __init__(self, folder: pathlib.Path, step: int) -> None:
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        if step:
            self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, values: Mapping[str, float | int]) -> None:
        for name, value in values.items():
            self._write(Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

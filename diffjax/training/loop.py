"""The training loop, top to bottom."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from diffjax.training.checkpoint import Checkpoints
from diffjax.training.journal import Journal
from diffjax.training.parallel import shard_batches
from diffjax.training.step import Batch, Metrics, TrainState
from diffjax.typing import Params


@runtime_checkable
class Data(Protocol):
    """An endless iterator over batches whose position can be saved."""

    def __next__(self) -> dict[str, Any]: ...
    def get_state(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to train, and after how many steps each thing is done."""

    steps: int
    log_every: int
    checkpoint_every: int
    sample_every: int
    steps_per_dispatch: int = 1

    def stretch(self, step: int) -> int:
        """Steps to take at once from `step`: a full dispatch, or one where that would not fit."""
        every = (self.log_every, self.checkpoint_every, self.sample_every)
        room = min(self.steps - step, *(e - step % e for e in every))
        return self.steps_per_dispatch if self.steps_per_dispatch <= room else 1

    def due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.steps


def train(
    run_steps: Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]],
    state: TrainState,
    key: Any,
    data: Data,
    keys_used: tuple[str, ...],
    plan: Plan,
    journal: Journal,
    checkpoints: Checkpoints,
    draw: Callable[[int, Params], None],
    stopping: Callable[[], bool],
) -> TrainState:
    """Trains from the state's step to the plan's last, or until `stopping()`, then saves.

    `draw(step, ema_params)` shows a picture.

    The host stays one dispatch ahead of the device: while it computes, the next batch is read and
    sent, and the metrics of the dispatch before are fetched.
    """
    step = int(state.step)
    waiting: Metrics | None = None
    while step < plan.steps:
        count = plan.stretch(step)
        batches = [next(data) for _ in range(count)]
        stacked = {k: np.stack([b[k] for b in batches]) for k in keys_used}
        state, metrics = run_steps(state, key, shard_batches(stacked))
        if waiting is not None:
            journal.add(jax.device_get(waiting))
        waiting = metrics
        step += count
        halt = stopping()
        log, picture, checkpoint = (
            plan.due(step, e) for e in (plan.log_every, plan.sample_every, plan.checkpoint_every)
        )
        if not (log or picture or checkpoint or halt):
            continue
        journal.add(jax.device_get(waiting))
        waiting = None
        if log:
            journal.write(step)
        with journal.paused():
            if picture and not halt:
                draw(step, state.ema_params)
            if checkpoint or halt:  # the last, so that a run taken up here has missed nothing
                checkpoints.save(step, state, {"data": data.get_state(), "window": journal.window})
        if halt:
            break
    checkpoints.wait()
    return state

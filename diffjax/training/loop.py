"""The training loop, top to bottom."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from diffjax.training.guard import Guard
from diffjax.training.journal import Log
from diffjax.training.parallel import Parallelism, Steps
from diffjax.training.step import Metrics, TrainState
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
    run_steps: Steps,
    parallelism: Parallelism,
    state: TrainState,
    key: Any,
    data: Data,
    keys_used: tuple[str, ...],
    plan: Plan,
    log: Log,
    guard: Guard,
    save: Callable[[int, TrainState], None],
    draw: Callable[[int, Params], None],
    stopping: Callable[[int], bool],
    frozen: Params | None = None,
) -> TrainState:
    """Trains from the state's step to the plan's last, or until `stopping(step)`, then saves.

    `draw(step, eval_params)` shows a picture. `frozen` is given to each step as it is, replicated.
    Raises the guard's NotFinite.

    The host stays one dispatch ahead of the device: while it computes, the next batch is read and
    sent, and the metrics of the dispatch before are fetched.
    """
    step = int(state.step)
    waiting: tuple[int, Metrics] | None = None

    def fetch() -> None:
        nonlocal waiting
        if waiting is not None:
            first, metrics = waiting[0], jax.device_get(waiting[1])
            waiting = None
            guard.watch(first, metrics)
            log.add({k: v for k, v in metrics.items() if v.ndim == 1})

    while step < plan.steps:
        count = plan.stretch(step)
        batches = [next(data) for _ in range(count)]
        stacked = {k: np.stack([b[k] for b in batches]) for k in keys_used}
        state, metrics = run_steps(state, key, parallelism.shard(stacked), frozen)
        fetch()
        waiting = step + 1, metrics
        step += count
        halt = stopping(step)
        line, picture, checkpoint = (
            plan.due(step, e) for e in (plan.log_every, plan.sample_every, plan.checkpoint_every)
        )
        if not (line or picture or checkpoint or halt):
            continue
        fetch()
        if line:
            log.write(step)
        with log.paused():
            if picture and not halt:
                draw(step, state.eval_params)
            # The last, so that a run taken up here has missed nothing; and sound, so that one which
            # goes back does not stand among the updates that it goes back for.
            if halt or step == plan.steps or (checkpoint and not guard.in_row):
                save(step, state)
        if halt:
            break
    return state

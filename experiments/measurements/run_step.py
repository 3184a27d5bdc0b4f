"""The train step of a run, to be compiled and timed, on a batch of the run's own records."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

import diffjax.data
from diffjax import runs
from diffjax.errors import UserError
from diffjax.models.convolution.choice import Measured
from diffjax.tasks.base import params_of
from diffjax.training.parallel import Pmap, on_one_device, replicate
from diffjax.training.step import check_batch, init_state, make_train_step

FASTER = 1.02  # times as fast a step must be for a table to be kept
STEPS = 1000  # the run's length here, which only the learning rate follows


class RunStep:
    """A run's step as `session` has it, on all devices: the state is that of a new run."""

    def __init__(self, folder: str, data_dir: str | None) -> None:
        """Raises UserError for what is no run, or whose data cannot be opened."""
        _, config = runs.open_run(folder)
        own, task = config.training, config.task
        frozen = runs.load_frozen(task, training=True)
        left_out = task.drawing_only
        given = jax.device_get(params_of({n: c for n, c in frozen.items() if n not in left_out}))
        tx = own.make_optimizer(STEPS)
        self._step = make_train_step(
            task.loss(frozen), tx, own.ema_decay,
            accumulate=own.accumulate, axis_name=Pmap().axis_name,
        )  # fmt: skip
        seed = np.uint32(own.seed)
        self._state = replicate(
            lambda seed, frozen: init_state(task.init(jax.random.key(seed), frozen), tx),
            seed, given,
        )  # fmt: skip
        records = config.open("train", data_dir)
        check_batch(own.batch_size, jax.device_count(), own.accumulate)
        batch = next(iter(diffjax.data.batches(records, own.batch_size, own.seed)))
        if missing := set(task.batch_keys) - batch.keys():
            raise UserError(
                f"{folder} learns from {', '.join(sorted(missing))}, which its program computes: "
                "choose a run that learns from images"
            )
        read = {name: batch[name][None] for name in task.batch_keys}
        self._rest = (
            replicate(jax.random.key, seed), Pmap().shard(read),
            replicate(lambda frozen: frozen, given),
        )  # fmt: skip

    def compile(self) -> Callable[[], Any]:
        """A call takes one step more, on a state of its own. Traced anew each time."""
        run = Pmap().compile(lambda *arguments: self._step(*arguments))
        state = replicate(lambda state: state, jax.device_get(on_one_device(self._state)))

        def call() -> Any:
            nonlocal state
            state, metrics = run(state, *self._rest)
            return metrics

        jax.block_until_ready(call())
        return call


def is_faster(ratios: Sequence[float]) -> bool:
    """Whether a step gains by more than a shared machine comes and goes."""
    lower = statistics.quantiles(ratios, n=4, method="inclusive")[0]
    return statistics.median(ratios) >= FASTER and lower >= 1


def changes(asked: Iterable[Measured], found: Iterable[Measured]) -> int:
    """How many of the measured shapes go another way than they went."""
    before = {question[:7]: question.path for question in asked}
    return sum(before[row[:7]] != row.path for row in found)

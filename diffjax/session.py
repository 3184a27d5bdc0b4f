"""A run from its config to trained weights: taken up where it stopped, saved, shown, logged."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

import diffjax.data
from diffjax import spec
from diffjax.data import Records
from diffjax.display.environment import environment
from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.run_report import write_report
from diffjax.runs import RunConfig, Training
from diffjax.tasks.base import Component, Preview, params_of
from diffjax.training.averages import averages_of, save_averages, with_averages
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.guard import Guard, NotFinite
from diffjax.training.journal import Journal, Log
from diffjax.training.loop import Plan, train
from diffjax.training.parallel import PARALLELISM, on_one_device, replicate, wait_for_all
from diffjax.training.run import RunFolder
from diffjax.training.signals import stop_on_signal
from diffjax.training.step import (
    Loss,
    TrainState,
    init_state,
    make_train_step,
    tensor_names,
)
from diffjax.typing import Params


@dataclasses.dataclass(frozen=True)
class Conduct:
    """How long a run goes on, and how it is computed: free to change when it is taken up again.

    parallelism: a way of training.parallel. max_bad_steps: updates in a row that are not finite
    before the run goes back to its newest checkpoint. max_bad_records: records that cannot be read
    and are skipped. say: what takes a line for the terminal.
    """

    plan: Plan
    parallelism: str = "pmap"
    max_bad_steps: int = 10
    max_bad_records: int = 0
    say: Callable[[str], object] = print


@dataclasses.dataclass(frozen=True)
class Setup:
    """What is trained, on what, and what is shown of it.

    optimizer: None for that of the config. steady: its rate does not depend on the number of steps.
    """

    config: RunConfig[Any]
    records: Records
    frozen: Mapping[str, Component]
    loss: Loss
    preview: Preview
    conduct: Conduct
    optimizer: optax.GradientTransformation | None = None
    steady: bool = False

    @property
    def training(self) -> Training:
        return self.config.training

    @property
    def given(self) -> Params:
        """The parameters that the step takes and does not train."""
        left_out = self.config.task.drawing_only
        return params_of({n: c for n, c in self.frozen.items() if n not in left_out})

    def make_optimizer(self) -> optax.GradientTransformation:
        tx = self.optimizer or self.training.make_optimizer(self.conduct.plan.steps)
        return with_averages(tx) if self.training.averages else tx


@contextlib.contextmanager
def run_folder(
    path: str | None, config: RunConfig[Any], flags: str, say: Callable[[str], object]
) -> Iterator[RunFolder]:
    """The run's folder, made and held by the first process alone."""
    path = path or f"runs/{config.name()}"
    with contextlib.ExitStack() as stack:
        if first_process():
            run = stack.enter_context(RunFolder.create(path, config.to_dict(), flags))
            write_text(run.environment, json.dumps(environment(), indent=2) + "\n")
            say(f"run folder: {run.path}")
            wait_for_all("the run folder is there")
        else:
            wait_for_all("the run folder is there")
            run, _ = RunFolder.open(path)
        yield run


def first_process() -> bool:
    """Whether this is the one process that writes and speaks."""
    return jax.process_index() == 0


def train_run(folder: RunFolder, setup: Setup) -> TrainState:
    """Trains in the run's folder, from its newest checkpoint if it has one.

    Raises UserError where the updates are not finite, once more after the run has gone back.
    """
    returns, say = 0, setup.conduct.say
    with stop_on_signal() as stopping, Checkpoints(folder.checkpoints) as checkpoints:
        while True:
            session = take_up(setup, checkpoints, returns)
            try:
                return train_on(session, folder, setup, checkpoints, stopping)
            except NotFinite as error:
                checkpoints.wait()
                step = checkpoints.latest_step()
                if session.returns:
                    kept = "no checkpoint" if step is None else f"the checkpoint of step {step}"
                    raise UserError(
                        f"{error}; the run went back before, in vain, and leaves {kept}: "
                        "lower the learning_rate or look at the data",
                        option="learning_rate",
                    ) from error
                start = "beginning" if step is None else f"checkpoint of step {step}"
                say(f"{error}: going back to the {start}, from there with other noise")
                returns = 1


@dataclasses.dataclass
class Session:
    """Where training starts: what is read from the newest checkpoint, or the beginning.

    `returns` is how often the run has gone back after updates that were not finite; window, in_row
    and digest are the journal's and the guard's.
    """

    state: TrainState
    tx: Any
    data: Any
    returns: int
    window: Sequence[dict[str, float]] = ()
    in_row: int = 0
    digest: str | None = None


def take_up(setup: Setup, checkpoints: Checkpoints, returns: int) -> Session:
    """The state to go on from."""
    tx, frozen = setup.make_optimizer(), jax.device_get(setup.given)
    training, task = setup.training, setup.config.task
    seed = np.uint32(training.seed)
    state = replicate(
        lambda seed, frozen: init_state(task.init(jax.random.key(seed), frozen), tx), seed, frozen
    )
    data = diffjax.data.batches(
        setup.records,
        training.batch_size,
        training.seed,
        jax.process_index(),
        jax.process_count(),
        setup.conduct.max_bad_records,
    )
    session = Session(state, tx, data, returns)
    if checkpoints.latest_step() is not None:
        session.state, position = checkpoints.restore(state)
        data.set_state(position["data"])
        session.window, session.in_row = position["window"], position["in_row"]
        session.returns = max(returns, position["returns"])
        session.digest = position["digest"]
        step, steps = int(session.state.step), setup.conduct.plan.steps
        lines = [*checkpoints.skipped, *changes(setup, position, step)]
        for line in (*lines, f"going on from step {step} of {steps}"):
            setup.conduct.say(line)
    return session


def changes(setup: Setup, position: Mapping[str, Any], step: int) -> Iterator[str]:
    """What is no longer as it was when the checkpoint was saved, and makes other weights."""
    steps, images = setup.conduct.plan.steps, len(setup.records)
    planned, had = position.get("steps", steps), position.get("images", images)
    law = setup.training.rate_law
    alike = setup.steady or step <= min(map(law.steady_until, (planned, steps)))
    if planned != steps and not alike:
        yield (
            f"the run was planned for {planned} steps and now for {steps}: its rate follows the "
            f"{spec.render(law)} of the new length from here, so the weights will not be those of "
            f"a run of {steps} steps from the start"
        )
    if had != images:
        yield f"the data set had {had:,} images and has {images:,} now: the order is another"


def train_on(
    session: Session,
    folder: RunFolder,
    setup: Setup,
    checkpoints: Checkpoints,
    stopping: Callable[[int], bool],
) -> TrainState:
    """Trains from the session's state to the plan's last step, or until it is stopped."""
    conduct, training = setup.conduct, setup.training
    parallelism = PARALLELISM[conduct.parallelism]
    step = make_train_step(
        setup.loss,
        session.tx,
        training.ema_decay,
        accumulate=training.accumulate,
        axis_name=parallelism.axis_name,
    )
    guard = Guard(tensor_names(session.state.params), conduct.max_bad_steps, session.in_row)

    def save(step: int, state: TrainState) -> None:
        position = {
            "data": session.data.get_state(),
            "window": log.window,
            "in_row": guard.in_row,
            "returns": session.returns,
            "digest": log.digest(),
            "steps": conduct.plan.steps,
            "images": len(setup.records),
        }
        kept = averages_of(state.opt_state)
        if kept and first_process():
            save_averages(folder.averages, step, on_one_device(kept))
        checkpoints.save(step, state, position)

    def show(step: int, params: Params) -> None:
        checkpoints.wait()  # or a picture might take the room that it has been promised
        if first_process():
            setup.preview(step, on_one_device(params))
            write_report(folder)

    with open_log(folder, session, setup) as log:
        state = train(
            parallelism.compile(step),
            parallelism,
            session.state,
            replicate(run_key, np.uint32(training.seed), np.uint32(session.returns)),
            session.data,
            setup.config.task.batch_keys,
            conduct.plan,
            log,
            guard,
            save,
            show,
            stopping,
            frozen=replicate(lambda frozen: frozen, jax.device_get(setup.given)),
        )
        checkpoints.wait()
    return state


def run_key(seed: Any, returns: Any) -> Any:
    """The key of all steps: another after the run has gone back, or it would fail again."""
    return jax.random.fold_in(jax.random.key(seed), returns)


@contextlib.contextmanager
def open_log(folder: RunFolder, session: Session, setup: Setup) -> Iterator[Log]:
    """The journal of the first process; other processes keep silent."""
    if not first_process():
        yield Log(session.window)
        return
    with Journal(
        folder.path,
        step=int(session.state.step),
        steps=setup.conduct.plan.steps,
        batch_size=setup.training.batch_size,
        window=session.window,
        digest=session.digest,
    ) as journal:
        yield journal

"""What the training programs share: a run's flags, and the way from them to trained weights."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import numpy as np
import optax
from absl import flags

import diffjax.data
from diffjax import spec
from diffjax.data import Records
from diffjax.display.environment import environment
from diffjax.errors import UserError
from diffjax.run_report import write_report
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.guard import Guard, NotFinite
from diffjax.training.journal import Journal, Log
from diffjax.training.loop import Plan, train
from diffjax.training.parallel import PARALLELISM, on_one_device, replicate, wait_for_all
from diffjax.training.processes import joined
from diffjax.training.run import RunConfig, RunFolder
from diffjax.training.signals import stop_on_signal
from diffjax.training.step import (
    LossFn,
    TrainState,
    check_batch,
    init_state,
    make_optimizer,
    make_train_step,
    tensor_names,
)
from diffjax.typing import Params
from experiments import data
from experiments.flags import devices, specs

flags.adopt_module_key_flags(devices)
# What a run is: another value is another run.
DATASET = specs.define_spec("dataset", "embedded", diffjax.data, "the images to learn")
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "crop to a square and resize to this many pixels", lower_bound=1
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "images a step, all devices", lower_bound=1)
ACCUMULATE = flags.DEFINE_integer(
    "accumulate", 1, "pieces that a device's batch is computed in, to save memory", lower_bound=1
)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 2e-4, "Adam's peak rate", lower_bound=0)
WARMUP_STEPS = flags.DEFINE_integer("warmup_steps", 100, "steps up to that rate", lower_bound=0)
GRAD_CLIP = flags.DEFINE_float("grad_clip", 1.0, "the gradient's largest norm", lower_bound=0)
EMA_DECAY = flags.DEFINE_float(
    "ema_decay", 0.999, "decay of the averaged weights", lower_bound=0, upper_bound=1
)
SEED = flags.DEFINE_integer("seed", 0, "all randomness", lower_bound=0)
# How long it goes on, and where and how it is computed: free to change when it is taken up again.
DATA_DIR = flags.DEFINE_string("data_dir", None, "where prepared TFDS sets lie")
MAX_BAD_RECORDS = flags.DEFINE_integer(
    "max_bad_records", 0, "records that cannot be read and are skipped before the run fails",
    lower_bound=0,
)  # fmt: skip
MAX_BAD_STEPS = flags.DEFINE_integer(
    "max_bad_steps", 10,
    "updates in a row that are not finite, and skipped, before the run goes back to its newest "
    "checkpoint; the second time it stops",
    lower_bound=1,
)  # fmt: skip
STEPS = flags.DEFINE_integer("steps", 10_000, "train up to this step", lower_bound=1)
LOG_EVERY = flags.DEFINE_integer("log_every", 100, "steps to a line of metrics", lower_bound=1)
CHECKPOINT_EVERY = flags.DEFINE_integer(
    "checkpoint_every", 1000, "steps to a checkpoint", lower_bound=1
)
STEPS_PER_DISPATCH = flags.DEFINE_integer(
    "steps_per_dispatch", 1, "steps that an accelerator takes without the host", lower_bound=1
)
PARALLEL = flags.DEFINE_enum(
    "parallelism", "pmap", list(PARALLELISM),
    "how the batch is cut among devices: pmap, or jit over a sharded mesh",
)  # fmt: skip
# Of this one start alone.
DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "one run of several processes; TPU pods and Slurm need no more than this"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "with --distributed elsewhere: host:port of process 0"
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "with --coordinator: how many there are", lower_bound=1
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "with --coordinator: which of them this is, from 0", lower_bound=0
)
WORKDIR = flags.DEFINE_string("workdir", None, "the run's folder; by default under runs/")

IDENTITY = (
    DATASET, IMAGE_SIZE, BATCH_SIZE, ACCUMULATE, LEARNING_RATE, WARMUP_STEPS, GRAD_CLIP, EMA_DECAY,
    SEED,
)  # fmt: skip
FREE = (
    DATA_DIR, MAX_BAD_RECORDS, MAX_BAD_STEPS, STEPS, LOG_EVERY, CHECKPOINT_EVERY,
    STEPS_PER_DISPATCH, PARALLEL, devices.CPU_DEVICES,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Task:
    """What is an experiment's own in a training run.

    `keys_used` are the parts of a batch that the loss reads; `show(step, eval_params)` draws or
    measures every `show_every` steps, in one process. `optimizer` is for those that the flags do
    not describe.
    """

    init_params: Callable[[Any], Params]
    loss_fn: LossFn
    keys_used: tuple[str, ...]
    show: Callable[[int, Params], None]
    show_every: int
    optimizer: optax.GradientTransformation | None = None


def open_records() -> Records:
    """The training images that the flags name."""
    check_batch(BATCH_SIZE.value, jax.device_count(), ACCUMULATE.value)
    dataset = spec.build(DATASET.value, diffjax.data, {"data_dir": DATA_DIR.value})
    return dataset.open("train", IMAGE_SIZE.value, MAX_BAD_RECORDS.value)


def open_held_out(config: RunConfig) -> Records:
    """What the data set of a training run holds out, in the run's size."""
    return data.open_held_out(config, DATA_DIR.value)


def build_for(text: str, package: ModuleType, wanted: Mapping[str, Any]) -> Any:
    """The networks of --model with the options that the data and the task settle.

    Raises UserError for a --model that has no such option, or another value of it.
    """
    model = spec.build(text, package, wanted)
    for option, value in wanted.items():
        if not hasattr(model, option):
            raise UserError(f"--model={text} has no {option}, which is needed here: choose another")
        if getattr(model, option) != value:
            raise UserError(
                f"--model has {option}={getattr(model, option)!r}, where {value!r} is needed: "
                "leave it out"
            )
    return model


def identity() -> dict[str, Any]:
    """RunConfig.training: the flags that make a run what it is."""
    return {flag.name: flag.value for flag in IDENTITY}


def flags_text(experiment: str, own: Sequence[flags.FlagHolder]) -> str:
    """flags.txt: a flagfile that repeats the run, in a folder of its own."""
    return specs.flag_text(
        [flag.name for flag in (*own, *IDENTITY, *FREE)],
        f"python -m experiments.{experiment} --flagfile=flags.txt",
    )


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """The run's processes, joined: what comes before this must not compute."""
    given = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if any(v is not None for v in given) and (None in given or not DISTRIBUTED.value):
        raise UserError(
            "--coordinator, --num_processes and --process_id go together, with --distributed"
        )
    devices.split_cpu()
    with joined(DISTRIBUTED.value, *given):
        yield


@contextlib.contextmanager
def run_folder(config: RunConfig, flags: str) -> Iterator[RunFolder]:
    """The run's folder, made and held by the first process alone."""
    path = WORKDIR.value or f"runs/{config.name()}"
    with contextlib.ExitStack() as stack:
        if first_process():
            run = stack.enter_context(RunFolder.create(path, config, flags))
            run.environment.write_text(json.dumps(environment(), indent=2) + "\n")
            print(f"run folder: {run.path}", flush=True)
            wait_for_all("the run folder is there")
        else:
            wait_for_all("the run folder is there")
            run, _ = RunFolder.open(path)
        yield run


def first_process() -> bool:
    """Whether this is the one process that writes and speaks."""
    return jax.process_index() == 0


def train_run(run: RunFolder, records: Records, task: Task) -> TrainState:
    """Trains in the run's folder, from its newest checkpoint if it has one.

    Raises UserError where the updates are not finite, once more after the run has gone back.
    """
    returns = 0
    with stop_on_signal() as stopping, Checkpoints(run.checkpoints) as checkpoints:
        while True:
            session = take_up(records, task, checkpoints, returns)
            try:
                return train_on(session, run, task, checkpoints, stopping)
            except NotFinite as error:
                checkpoints.wait()
                step = checkpoints.latest_step()
                if session.returns:
                    kept = "no checkpoint" if step is None else f"the checkpoint of step {step}"
                    raise UserError(
                        f"{error}; the run went back before, in vain, and leaves {kept}: "
                        "lower --learning_rate or look at the data"
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


def take_up(records: Records, task: Task, checkpoints: Checkpoints, returns: int) -> Session:
    tx = task.optimizer or make_optimizer(
        LEARNING_RATE.value,
        STEPS.value,
        warmup_steps=WARMUP_STEPS.value,
        grad_clip=GRAD_CLIP.value,
    )
    seed = np.uint32(SEED.value)
    state = replicate(lambda seed: init_state(task.init_params(jax.random.key(seed)), tx), seed)
    data = diffjax.data.batches(
        records,
        BATCH_SIZE.value,
        SEED.value,
        jax.process_index(),
        jax.process_count(),
        MAX_BAD_RECORDS.value,
    )
    session = Session(state, tx, data, returns)
    if checkpoints.latest_step() is not None:
        session.state, position = checkpoints.restore(state)
        data.set_state(position["data"])
        session.window, session.in_row = position["window"], position["in_row"]
        session.returns = max(returns, position["returns"])
        session.digest = position["digest"]
        for line in checkpoints.skipped:
            say(line)
        say(f"going on from step {int(session.state.step)} of {STEPS.value}")
    return session


def train_on(
    session: Session,
    run: RunFolder,
    task: Task,
    checkpoints: Checkpoints,
    stopping: Callable[[int], bool],
) -> TrainState:
    parallelism = PARALLELISM[PARALLEL.value]
    step = make_train_step(
        task.loss_fn,
        session.tx,
        EMA_DECAY.value,
        accumulate=ACCUMULATE.value,
        axis_name=parallelism.axis_name,
    )
    plan = Plan(
        STEPS.value,
        LOG_EVERY.value,
        CHECKPOINT_EVERY.value,
        task.show_every,
        STEPS_PER_DISPATCH.value,
    )
    guard = Guard(tensor_names(session.state.params), MAX_BAD_STEPS.value, session.in_row)

    def save(step: int, state: TrainState) -> None:
        position = {
            "data": session.data.get_state(),
            "window": log.window,
            "in_row": guard.in_row,
            "returns": session.returns,
            "digest": log.digest(),
        }
        checkpoints.save(step, state, position)

    def show(step: int, params: Params) -> None:
        checkpoints.wait()  # or a picture might take the room that it has been promised
        if first_process():
            task.show(step, on_one_device(params))
            write_report(run)

    with open_log(run, session, plan.steps) as log:
        state = train(
            parallelism.compile(step),
            parallelism,
            session.state,
            replicate(run_key, np.uint32(SEED.value), np.uint32(session.returns)),
            session.data,
            task.keys_used,
            plan,
            log,
            guard,
            save,
            show,
            stopping,
        )
        checkpoints.wait()
    return state


def run_key(seed: Any, returns: Any) -> Any:
    """The key of all steps: another after the run has gone back, or it would fail again."""
    return jax.random.fold_in(jax.random.key(seed), returns)


@contextlib.contextmanager
def open_log(run: RunFolder, session: Session, steps: int) -> Iterator[Log]:
    if not first_process():
        yield Log(session.window)
        return
    with Journal(
        run.path,
        step=int(session.state.step),
        steps=steps,
        batch_size=BATCH_SIZE.value,
        window=session.window,
        digest=session.digest,
    ) as journal:
        yield journal


def say(line: str) -> None:
    """A line on the terminal, of one process."""
    if first_process():
        print(line, flush=True)

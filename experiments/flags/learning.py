"""The flags of the programs that train, and the way from them to trained weights."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import optax
from absl import flags

import diffjax.data
import diffjax.optimizers
import diffjax.rates
from diffjax import runs, session, spec
from diffjax.data import Records
from diffjax.data.contents import described
from diffjax.data.iterate import check_batch_size
from diffjax.errors import UserError
from diffjax.runs import Run, RunConfig, Training
from diffjax.session import Conduct, Setup, first_process
from diffjax.tasks.base import Component, Task
from diffjax.training.loop import Plan
from diffjax.training.parallel import PARALLELISM, on_one_device
from diffjax.training.processes import joined
from diffjax.training.run import CONFIG
from diffjax.training.step import Loss, check_batch
from experiments.flags import cpu_devices, dataset, kinds, marking, specs
from experiments.flags.dataset import DATASET, IMAGE_SIZE
from experiments.start.command import said

flags.adopt_module_key_flags(cpu_devices)
flags.adopt_module_key_flags(marking)
flags.adopt_module_key_flags(dataset)
# What a run is: another value is another run.
BATCH_SIZE = kinds.define_integer("batch_size", 32, "images per step, all devices", lower_bound=1)
ACCUMULATE = kinds.define_integer(
    "accumulate", 1, "pieces that a device's batch is computed in, to save memory", lower_bound=1
)
OPTIMIZER = specs.define_spec(
    "optimizer", "adam", diffjax.optimizers, "how a gradient becomes a step"
)
LEARNING_RATE = kinds.define_number("learning_rate", 2e-4, "its highest rate", lower_bound=0)
RATE = specs.define_spec("rate", "cosine", diffjax.rates, "how the rate goes after that")
WARMUP_STEPS = kinds.define_integer("warmup_steps", 100, "steps up to that rate", lower_bound=0)
GRAD_CLIP = kinds.define_number(
    "grad_clip", 1.0, "the gradient's largest norm; 0 is no bound", lower_bound=0
)
EMA_DECAY = kinds.define_number(
    "ema_decay", 0.999, "decay of the averaged weights", lower_bound=0, upper_bound=1
)
AVERAGES = flags.DEFINE_boolean(
    "averages", False,
    "keep averages of the weights at each checkpoint, from which one of any length is made later",
)  # fmt: skip
SEED = kinds.define_seed()
# How long it goes on, and where and how it is computed: free to change when it is taken up again.
DATA_DIR = kinds.define_path("data_dir", None, "where prepared TFDS sets lie")
MAX_BAD_RECORDS = kinds.define_integer(
    "max_bad_records", 0, "records that cannot be read and are skipped before the run fails",
    lower_bound=0,
)  # fmt: skip
MAX_BAD_STEPS = kinds.define_integer(
    "max_bad_steps", 10,
    "updates in a row that are not finite, and skipped, before the run goes back to its newest "
    "checkpoint; the second time it stops",
    lower_bound=1,
)  # fmt: skip
STEPS = kinds.define_integer("steps", 10_000, "train up to this step", lower_bound=1)
LOG_EVERY = kinds.define_integer("log_every", 100, "steps per line of metrics", lower_bound=1)
CHECKPOINT_EVERY = kinds.define_integer(
    "checkpoint_every", 1000, "steps per checkpoint", lower_bound=1
)
STEPS_PER_DISPATCH = kinds.define_integer(
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
NUM_PROCESSES = kinds.define_integer(
    "num_processes", None, "with --coordinator: how many there are", lower_bound=1
)
PROCESS_ID = kinds.define_integer(
    "process_id", None, "with --coordinator: which of them this is, from 0", lower_bound=0
)
WORKDIR = kinds.define_path("workdir", None, "the run's folder; by default under runs/")

IDENTITY = (
    DATASET, IMAGE_SIZE, BATCH_SIZE, ACCUMULATE, OPTIMIZER, LEARNING_RATE, RATE, WARMUP_STEPS,
    GRAD_CLIP, EMA_DECAY, AVERAGES, SEED,
)  # fmt: skip
FREE = (
    DATA_DIR, MAX_BAD_RECORDS, MAX_BAD_STEPS, STEPS, LOG_EVERY, CHECKPOINT_EVERY,
    STEPS_PER_DISPATCH, PARALLEL, cpu_devices.CPU_DEVICES, marking.MARK,
)  # fmt: skip
ONCE = (DISTRIBUTED, COORDINATOR, NUM_PROCESSES, PROCESS_ID, WORKDIR)


def training() -> Training:
    """The flags that make a run what it is, besides its task's."""
    values: dict[str, Any] = {flag.name: flag.value for flag in IDENTITY}
    return Training(**values)


def open_records() -> Records:
    """The training images that the flags name, which it describes on the terminal."""
    check_batch(BATCH_SIZE.value, jax.device_count(), ACCUMULATE.value)
    records = training().open("train", DATA_DIR.value, MAX_BAD_RECORDS.value)
    check_batch_size(BATCH_SIZE.value, len(records))
    say(f"data: {described(records)}")
    return records


def open_held_out() -> Records:
    """What the data set holds out, in the run's size."""
    return training().open("test", DATA_DIR.value)


def data_named() -> tuple[str, str]:
    """What --dataset and --image_size say, for names of files that depend on the data."""
    return DATASET.value, str(IMAGE_SIZE.value)


def begun_task() -> Task | None:
    """The task of the run in --workdir; None where no run has begun there."""
    begun = WORKDIR.value and pathlib.Path(WORKDIR.value, CONFIG)
    if not begun or not begun.is_file():
        return None
    task: Task = runs.open_run(WORKDIR.value)[1].task
    return task


def refuse_optimizers(why: str) -> None:
    """Raises UserError where a flag asks for another optimizer than the program's own."""
    for flag in (OPTIMIZER, RATE):
        if flag.value != flag.default:  # flags.txt of a run names the default too
            raise UserError(f"--{flag.name}={flag.value} does nothing here, {why}: leave it out")


def refuse_for_two() -> None:
    """Raises UserError for flags that do nothing where two networks have rates of their own."""
    refuse_optimizers("where each network has an Adam and a steady rate")
    if GRAD_CLIP.value != GRAD_CLIP.default:
        raise UserError(
            "--grad_clip would let one network's gradient shorten the other's step: leave it out"
        )


def build_for(
    text: str, package: ModuleType, wanted: Mapping[str, Any], flag: str = "model"
) -> Any:
    """The networks of --model, or another flag, with what the data and the task settle.

    Raises UserError for networks that have no such option, or another value of it.
    """
    model = spec.build(text, package, wanted)
    for option, value in wanted.items():
        if not hasattr(model, option):
            raise UserError(
                f"--{flag}={text} has no {option}, which is needed here: choose another"
            )
        if getattr(model, option) != value:
            raise UserError(
                f"--{flag} has {option}={getattr(model, option)!r}, where {value!r} is needed: "
                "leave it out"
            )
    return model


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
    cpu_devices.split_cpu()
    with joined(DISTRIBUTED.value, *given, said):
        yield


def train(
    task: Task,
    records: Records,
    text: str,
    shown: Any,
    show_every: int,
    *,
    loss: Callable[[Mapping[str, Component]], Loss] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    steady: bool = False,
    done: Callable[[Run[Any]], None] | None = None,
) -> None:
    """Trains a task in the run's folder, and says how it ended.

    text: what flags.txt holds. shown: what the task's preview takes, every show_every steps. loss:
    in place of the task's own. optimizer, steady: as in `Setup`. done: called with the finished run
    in the first process.
    """
    config: RunConfig[Any] = RunConfig(task, training())
    frozen = runs.load_frozen(task, training=True)
    plan = Plan(
        STEPS.value, LOG_EVERY.value, CHECKPOINT_EVERY.value, show_every, STEPS_PER_DISPATCH.value
    )
    own = (loss or task.loss)(frozen)
    marks = marking.marked(config.digest(), SEED.value, say)
    with session.run_folder(WORKDIR.value, config, text, say) as folder, marks:
        conduct = Conduct(plan, PARALLEL.value, MAX_BAD_STEPS.value, MAX_BAD_RECORDS.value, say)
        preview = task.preview(folder, frozen, shown)
        setup = Setup(config, records, frozen, own, preview, conduct, optimizer, steady)
        state = session.train_run(folder, setup)
        step = int(state.step)
        if step < plan.steps:
            say(f"stopped at step {step}: the same command goes on from there")
            return
        if done is not None and first_process():
            params = on_one_device(state.eval_params)
            components = {**frozen, **runs.trained_components(task, params)}
            done(Run(folder, config, step, components))
        say(f"done: step {step}, see {folder.report}")


def say(line: str) -> None:
    """A line on the terminal, of one process."""
    if first_process():
        print(line, flush=True)

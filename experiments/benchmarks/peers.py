"""This library beside torch and diffusers: the same network, weights and work, taken in turns.

python -m experiments.benchmark peers

On a CPU both compute in float32 on all cores, torch eagerly in either memory format; on a GPU both
in bfloat16, torch compiled in channels_last as well. The best of torch's sides counts.
"""

import ctypes
import dataclasses
import math
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from matplotlib.figure import Figure

from diffjax.errors import UserError
from diffjax.generate import make_draw
from diffjax.models.unet import UNet
from diffjax.process import Process
from diffjax.randomness import sample_keys
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.linear import Linear
from diffjax.training.parallel import Pmap, replicate
from diffjax.training.step import check_batch
from diffjax.typing import Images, Params
from experiments.flags import cpu_devices, kinds
from experiments.measurements import measuring
from experiments.measurements.main_job import FLAGFILE
from experiments.measurements.torch_peer import Peer, libraries


@dataclasses.dataclass(frozen=True)
class Work:
    """What all sides do, and the ratio that is aimed at.

    `split`: on a CPU we train with a device a core, as is quickest for small networks. `on`: where
    it is done if no work is asked for by name.
    """

    kind: str
    network: str
    batch: int
    reach: float
    split: bool = False
    on: tuple[str, ...] = ("cpu",)

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.network}_{self.batch}"


DDIM_STEPS = 50
WORKS = {
    work.name: work
    for work in (
        Work("train", "cifar10", 4, 1.3),
        Work("train", "cifar10", 16, 1.3),
        Work("train", "greyscale", 32, 1.1, split=True),
        Work("train", "cifar10", 128, 1.0, on=("gpu",)),
        Work("forward", "cifar10", 4, 1.3),
        Work("forward", "cifar10", 16, 1.3),
        Work("forward", "cifar10", 128, 1.0, on=("gpu",)),
        Work("ddim", "cifar10", 4, 1.3),
        Work("ddim", "cifar10", 16, 1.3, on=("cpu", "gpu")),
        Work("ddim", "greyscale", 1, 2.5),
        Work("ddim", "greyscale", 16, 1.3),
        Work("memory", "cifar10", 4, 1.25),
        Work("memory", "cifar10", 16, 1.25),
        Work("memory", "cifar10", 128, 1.0, on=("gpu",)),
        Work("job", "fashion_mnist", 16, 1.5, on=("cpu", "gpu")),
    )
}
flags.adopt_module_key_flags(cpu_devices)
WORK = flags.DEFINE_multi_enum(
    "work", None, list(WORKS), "what to measure, as often as is wanted; by default what suits here"
)
ROUNDS = kinds.define_integer("rounds", 3, "times that all sides take turns", lower_bound=1)
JOB_STEPS = kinds.define_integer("job_steps", 3000, "steps of the main job", lower_bound=1)
OUT = kinds.define_path("out", "benchmark", "the folder to write")
OURS, SPAN = "diffjax", 2.0


def main() -> None:
    torch, _ = libraries()  # before what takes minutes
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs the rest
    # What is split can then be cut evenly.
    cpu_devices.split_cpu(
        math.gcd(cpu_devices.cores(), *(work.batch for work in WORKS.values() if work.split))
    )
    here, there = jax.default_backend(), "gpu" if torch.cuda.is_available() else "cpu"
    if here != there:
        raise UserError(f"JAX computes on a {here} and torch on a {there}: install both for one")
    suited = [name for name, work in WORKS.items() if here in work.on]
    works = [WORKS[name] for name in dict.fromkeys(WORK.value or suited)]
    if sys.platform != "linux" and any(work.kind == "memory" for work in works):
        raise UserError("memory is measured on Linux alone: name each --work but those")
    rows = []
    for work in works:
        rows.append({"memory": memory, "job": job}.get(work.kind, measure)(work))
        print(line(rows[-1]), flush=True)
    folder = pathlib.Path(OUT.value)
    measuring.save(folder, "peers", {"ddim_steps": DDIM_STEPS, "rows": rows}, plot(rows))
    print(f"in {folder}")


def measure(work: Work) -> dict[str, Any]:
    """Seconds of each side, and how many times as fast we are: the median of the rounds."""
    model, params, x = subject(work)
    calls = {OURS: ours(work, model, params, x), **theirs(work, model, params, np.asarray(x))}
    taken = measuring.interleaved(calls, ROUNDS.value, SPAN)
    others = [min(times) for times in zip(*list(taken.values())[1:], strict=True)]
    ratios = [other / own for other, own in zip(others, taken[OURS], strict=True)]
    middle = {name: statistics.median(times) for name, times in taken.items()}
    return row(work, statistics.median(ratios), ratios, seconds=middle) | rates(
        work, model, params, x, middle[OURS]
    )


def row(work: Work, ratio: float, ratios: list[float], **measured: Any) -> dict[str, Any]:
    return {"work": work.name, "reach": work.reach, "ratio": ratio, "ratios": ratios, **measured}


def subject(work: Work) -> tuple[UNet, Params, Images]:
    """Network, weights and images."""
    model = measuring.build(work.network)
    assert isinstance(model, UNet)
    shape = measuring.image_shape(model)
    params = measuring.random_params(model, shape)
    return model, params, measuring.images(work.batch, shape)["image"]


def ours(work: Work, model: UNet, params: Params, x: Images) -> Callable[[], Any]:
    match work.kind:
        case "train" if work.split and jax.default_backend() == "cpu":
            return split_train_step(model, params, x)
        case "train" | "memory":
            return measuring.CompiledStep(model, len(x))
        case "forward":
            times = jnp.full(len(x), 500.0)
            forward = jax.jit(lambda params, x: model.apply({"params": params}, x, times))
            return lambda: forward(params, x)
    process = Process(Linear(), "eps")
    draw = make_draw(model, process, DDIM(), measuring.image_shape(model))
    times = jnp.asarray(DDIM().spacing.times(process.schedule, DDIM_STEPS))
    keys = sample_keys(jax.random.key(0), 0, len(x))
    return lambda: draw(params, keys, None, times)


def split_train_step(model: UNet, params: Params, x: Images) -> Callable[[], Any]:
    """As the main job runs, a device a core. Raises UserError for a batch that cannot be cut so."""
    check_batch(len(x), jax.device_count(), 1)
    step, state = measuring.training(model, params, Pmap().axis_name)
    run = Pmap().compile(step)
    state, key = replicate(lambda: state), replicate(jax.random.key, np.uint32(0))
    batches = Pmap().shard({"image": np.asarray(x)[None]})

    def call() -> Any:
        nonlocal state
        state, metrics = run(state, key, batches)
        return state, metrics

    return call


def theirs(work: Work, model: UNet, params: Params, x: np.ndarray) -> dict[str, Callable[[], Any]]:
    """A side for each way that torch offers."""
    ways = {"torch eager": {}, "torch channels_last": {"channels_last": True}}
    if jax.default_backend() != "cpu":
        ways["torch compiled"] = {"channels_last": True, "compiled": True}

    def side(options: dict[str, bool]) -> Callable[[], Any]:
        peer = Peer(model, params, **options)
        match work.kind:
            case "train" | "memory":
                return peer.train_step(x)
            case "forward":
                return peer.forward(x)
        return peer.ddim(x, DDIM_STEPS)

    return {name: side(options) for name, options in ways.items()}


def rates(work: Work, model: UNet, params: Params, x: Images, seconds: float) -> dict[str, float]:
    """Our images a second and useful FLOP/s, and their share of what a matrix product reaches."""

    def apply(params: Params, x: Images) -> Any:
        return model.apply({"params": params}, x, jnp.zeros(len(x)))

    passes = {"train": 3, "forward": 1, "ddim": DDIM_STEPS}[work.kind]
    done = passes * measuring.flops(apply, params, x) / seconds
    return {
        "images_per_second": len(x) / seconds,
        "tflops": done / 1e12,
        "share_of_matmul": done / measuring.matmul_peak(model.compute_dtype),
    }


def memory(work: Work) -> dict[str, Any]:
    """The most bytes that train steps hold beyond the libraries themselves, a process a side."""
    held = {}
    peak_bytes = host_bytes if jax.default_backend() == "cpu" else accelerator_bytes
    for side in (OURS, "torch"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            held[side] = pool.apply(peak_bytes, (side, work))
    ratio = held["torch"] / held[OURS]
    return row(work, ratio, [ratio], bytes=held)


def host_bytes(side: str, work: Work) -> int:
    """Of the third and fourth train step, on Linux: what compilation took before does not count."""
    if side != OURS:
        libraries()
    jax.block_until_ready(jnp.zeros(1) + 1)
    before = measuring.resident("VmRSS")
    model, params, x = subject(work)
    if side == OURS:
        call = ours(work, model, params, x)
    else:
        call = Peer(model, params).train_step(np.asarray(x))
    del params
    for _ in range(2):
        jax.block_until_ready(call())
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    for _ in range(2):
        jax.block_until_ready(call())
    return measuring.resident("VmHWM") - before


def accelerator_bytes(side: str, work: Work) -> int:
    """Of a train step: what our program takes in all, and torch's tensors at their most."""
    model, params, x = subject(work)
    if side == OURS:
        return measuring.CompiledStep(model, len(x)).bytes
    peer = Peer(model, params, channels_last=True)
    call = peer.train_step(np.asarray(x))
    call()
    peer.torch.cuda.reset_peak_memory_stats()
    call()
    return int(peer.torch.cuda.max_memory_allocated())


def job(work: Work) -> dict[str, Any]:
    """Seconds of the main job as a program, start, compilation and pictures included.

    Both sides step by Adam: torch's Muon takes no kernels of convolutions.
    """
    taken = {}
    ours = ["experiments.ddpm", f"--flagfile={FLAGFILE}", "--optimizer=adam", "--workdir"]
    for side, arguments in (
        (OURS, ours),
        ("torch", ["experiments.measurements.torch_job", "--out"]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", *arguments[:-1], f"{arguments[-1]}={folder}/run"]
            environ = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
            start = time.perf_counter()
            subprocess.run(
                [*command, f"--steps={JOB_STEPS.value}"],
                check=True, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            taken[side] = time.perf_counter() - start
    ratio = taken["torch"] / taken[OURS]
    return row(work, ratio, [ratio], seconds=taken, steps=JOB_STEPS.value)


def line(row: dict[str, Any]) -> str:
    """One work in words."""
    unit, sides = ("s", row["seconds"]) if "seconds" in row else ("GB", row["bytes"])
    scale = 1 if unit == "s" else 1e-9
    told = ", ".join(f"{name} {scale * value:.4g} {unit}" for name, value in sides.items())
    if "tflops" in row:
        told += f"; {row['images_per_second']:.4g} images/s, {row['tflops']:.3g} TFLOP/s, "
        told += f"{row['share_of_matmul']:.0%} of a matrix product's"
    spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
    return f"{row['work']:<22}{row['ratio']:6.2f} (reach {row['reach']}, {spread}): {told}"


def plot(rows: list[dict[str, Any]]) -> Figure:
    """How many times as fast, or as small, we are: a bar a work, its reach beside it."""
    figure = Figure(figsize=(9, 0.5 * len(rows) + 1.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    names = [row["work"] for row in rows]
    axes.barh(names, [row["ratio"] for row in rows], label="diffjax")
    axes.scatter([row["reach"] for row in rows], names, marker="|", s=300, color="k", label="reach")
    axes.axvline(1, color="grey", lw=1)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as the best of torch (memory: times as small)")
    axes.legend()
    return figure

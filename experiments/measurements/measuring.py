"""What the benchmarks share: networks and their work, clocks, and what the machine can do."""

import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.interpreters import partial_eval as pe
from jaxtyping import Array
from matplotlib.figure import Figure

import diffjax.models
from diffjax import spec
from diffjax.compiling import step_options
from diffjax.display.environment import environment
from diffjax.errors import UserError
from diffjax.files import write_text, write_whole
from diffjax.objectives.denoising import denoising_loss
from diffjax.process import Process
from diffjax.schedules.linear import Linear
from diffjax.training.optimizers import make_optimizer
from diffjax.training.step import TrainState, TrainStep, init_state, make_train_step
from diffjax.typing import Params

# DDPM's own network (Ho et al. 2020, app. B), and one such as a CPU trains.
NETWORKS = {
    "cifar10": "unet(sample_size=32,block_out_channels=(128,256,256,256),"
    "down_block_types=('DownBlock2D','AttnDownBlock2D','DownBlock2D','DownBlock2D'),"
    "up_block_types=('UpBlock2D','UpBlock2D','AttnUpBlock2D','UpBlock2D'),"
    "attention_head_dim=None,norm_eps=1e-6,downsample_padding=0,flip_sin_to_cos=False,freq_shift=1)",
    "greyscale": "unet(sample_size=28,in_channels=1,out_channels=1,layers_per_block=1,"
    "block_out_channels=(32,64,96),"
    "down_block_types=('DownBlock2D','DownBlock2D','AttnDownBlock2D'),"
    "up_block_types=('AttnUpBlock2D','UpBlock2D','UpBlock2D'),"
    "norm_num_groups=8,attention_head_dim=None)",
}
EMA_DECAY = 0.999


def build(name: str, **options: Any) -> nn.Module:
    """A network by its name here, or by a spec."""
    return spec.build(NETWORKS.get(name, name), diffjax.models, options)


def image_shape(model: Any) -> tuple[int, int, int]:
    """Height, width and channels of the images that the model's sample_size speaks of.

    Raises UserError for a model that has none, and for one that gives no image back.
    """
    size = getattr(model, "sample_size", None)
    if size is None:
        raise UserError("the model tells no size of its images: write unet(sample_size=32, ...)")
    if model.out_channels != model.in_channels:
        raise UserError(
            f"unet(in_channels={model.in_channels},out_channels={model.out_channels}): "
            "what is measured gives back as many channels as it takes"
        )
    height, width = size if isinstance(size, tuple) else (size, size)
    return height, width, model.in_channels


def random_params(model: nn.Module, shape: tuple[int, int, int]) -> Params:
    """Numbers as of a network that has trained a while: none is zero, and nothing is compiled."""
    start = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
    draw = np.random.default_rng(0).normal

    def near_its_start(path: Any, leaf: Any) -> Array:
        mean = float(path[-1].key == "scale")
        return jnp.asarray(draw(mean, 0.02, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(near_its_start, start["params"])


def training(
    model: nn.Module, params: Params, axis_name: str | None = None
) -> tuple[TrainStep, TrainState]:
    """The main job's train step, Adam, clip and EMA with it, and the state to start from."""
    tx = make_optimizer(2e-4, 1000)
    loss_fn = denoising_loss(Process(Linear(), "eps"), model.apply)
    return make_train_step(loss_fn, tx, EMA_DECAY, axis_name=axis_name), init_state(params, tx)


def images(batch: int, shape: tuple[int, int, int]) -> dict[str, Array]:
    """A batch of noise: what pixels hold does not change what it costs."""
    return {"image": jax.random.normal(jax.random.key(2), (batch, *shape))}


class CompiledStep:
    """The train step of a model, compiled for noise of a batch size; a call goes a step on."""

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        shape = image_shape(model)
        step, self._state = training(model, random_params(model, shape))
        self._given = jax.random.key(1), images(batch_size, shape)
        jitted = jax.jit(step, donate_argnums=0, compiler_options=step_options())
        traced = jitted.trace(self._state, *self._given)
        self.products = list(products(traced.jaxpr.jaxpr))
        self.compiled = traced.lower().compile()
        memory: Any = self.compiled.memory_analysis()
        self.temporary_bytes = memory.temp_size_in_bytes
        self.bytes = self.temporary_bytes + memory.argument_size_in_bytes

    def __call__(self) -> dict[str, Array]:
        self._state, metrics = self.compiled(self._state, *self._given)
        return metrics


def seconds_of(call: Callable[[], Any], span: float) -> float:
    """Seconds a call, over as many as fill `span` seconds, at least one.

    A call before those does not count, unless it fills five spans: it finds the caches full of
    what ran before it, and memory that others have had or the machine has taken back.
    """
    start = time.perf_counter()
    jax.block_until_ready(call())
    if (first := time.perf_counter() - start) >= 5 * span:
        return first
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < span:
        jax.block_until_ready(call())
        count += 1
    return (time.perf_counter() - start) / count


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, span: float
) -> dict[str, list[float]]:
    """Seconds a call of each, one figure a round; in a round all take turns.

    A shared machine may halve its speed for minutes: what is compared is measured side by side.
    """
    for call in calls.values():  # compiles, and fills caches
        jax.block_until_ready(call())
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(seconds_of(call, span))
    return taken


def matmul_peak(dtype: str = "float32", size: int = 2048) -> float:
    """FLOP/s of a large matrix product, the best of a few: what this machine can do."""
    if jax.default_backend() != "cpu":
        size = 8192
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)  # zeros and ones go faster
    product = jax.jit(jnp.matmul)
    times = interleaved({"": lambda: product(a, a)}, rounds=5, span=0.1)[""]
    return 2 * size**3 / min(times)


def memory_bandwidth(megabytes: int = 256) -> float:
    """Bytes/s of an addition that reads one array and writes it back in place."""
    add = jax.jit(lambda a: a + 1, donate_argnums=0)
    array = jnp.zeros(megabytes * 2**18, jnp.float32)
    best = np.inf
    for _ in range(12):
        start = time.perf_counter()
        array = jax.block_until_ready(add(array))
        best = min(best, time.perf_counter() - start)
    return 2 * array.nbytes / best


def flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiplications and additions in the convolutions and matrix products of a function.

    A convolution counts as computed directly, whichever way it takes, so that rates compare.
    """
    return sum(count for _, count in products(jax.make_jaxpr(function)(*arguments).jaxpr))


def products(jaxpr: Any) -> Iterator[tuple[str, int]]:
    """The scope of each convolution and matrix product whose result is used, and its operations."""
    return _products(pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0], "")


def _products(jaxpr: Any, scope: str) -> Iterator[tuple[str, int]]:
    for equation in jaxpr.eqns:
        own = f"{scope}/{equation.source_info.name_stack}"
        match equation.primitive.name:
            case "conv_general_dilated" | "dot_general":
                yield own, _operations(equation)
            case "cond":  # of platforms: the last is the one where nothing is chosen
                yield from _products(equation.params["branches"][-1].jaxpr, own)
            case "scan":
                for inner, count in _products(equation.params["jaxpr"].jaxpr, own):
                    yield inner, equation.params["length"] * count
            case _:
                for value in jax.tree.leaves(equation.params):
                    inside = getattr(value, "jaxpr", value)  # closed or open
                    if hasattr(inside, "eqns"):
                        yield from _products(inside, own)


def _operations(equation: Any) -> int:
    """Two a product and sum; where zeros were put between pixels there is nothing to add."""
    left, right = (variable.aval for variable in equation.invars)
    dense = 2 * equation.outvars[0].aval.size
    numbers = equation.params["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        return dense * math.prod(left.shape[axis] for axis in numbers[0][0])
    terms = right.size // right.shape[numbers.rhs_spec[0]]
    return dense * terms // math.prod(equation.params["lhs_dilation"])


def resident(name: str, process: int | str = "self") -> int:
    """A process's resident bytes, now (VmRSS) or at their peak (VmHWM).

    Raises OSError where there is no /proc, and ValueError for a process that has ended.
    """
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    (kilobytes,) = (row.split()[1] for row in status.splitlines() if row.startswith(f"{name}:"))
    return 1024 * int(kilobytes)


class Fit(NamedTuple):
    """a·xᵖ; the error is one standard deviation of p, None where two points leave no doubt."""

    a: float
    p: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.p:.2f}" + (f" ± {self.error:.2f}" if self.error is not None else "")


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """The least squares of log y against log x, at two points or more; all are above 0."""
    if len(x) == 2:
        p, log_a = np.polyfit(np.log(x), np.log(y), 1)
        return Fit(float(np.exp(log_a)), float(p), None)
    (p, log_a), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    return Fit(float(np.exp(log_a)), float(p), float(np.sqrt(covariance[0, 0])))


def save(folder: pathlib.Path, name: str, values: dict[str, Any], figure: Figure | None) -> None:
    """NAME.json, with what it was measured on, and NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"environment": environment(), **values}, indent=2) + "\n"
    write_text(folder / f"{name}.json", text)
    if figure is not None:
        write_whole(folder / f"{name}.png", lambda part: figure.savefig(part, format="png"))

"""From trained parameters to samples, in batches of any size."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key

from diffjax.batches import padded
from diffjax.compiling import LARGE, cpu_options
from diffjax.conditions.base import rows_of
from diffjax.devices import ordered
from diffjax.errors import UserError
from diffjax.guidance.plan import Guidance, guide
from diffjax.process import Process
from diffjax.randomness import sample_keys
from diffjax.samplers.base import Sampler, from_noise
from diffjax.spacings.base import Spacing
from diffjax.typing import Cond, Images, Keys, Params

FILM_IMAGES, FILM_FRAMES = 25, 40  # a film of more is too large to send anyone
Draw = Callable[..., tuple[Images, Float[Array, "F N H W C"]]]
UNGUIDED = Guidance()
SAMPLE, WHOLE = PartitionSpec("sample"), PartitionSpec()


def make_draw(
    model: nn.Module,
    process: Process,
    sampler: Sampler,
    shape: tuple[int, int, int],
    *,
    limit: float | None = 1.0,
    weak: nn.Module | None = None,
) -> Draw:
    """A compiled (params, keys, cond, times[, guidance]) -> (x0, film of some).

    cond is the network's condition, or None; x0 is of `shape`, in [-limit, limit] where there is a
    limit. The film is of the first samples. It compiles once for each number of times, which
    `times_of` fills up to one number, whatever the numbers in the guidance. `weak` is the network
    of such guidance as has one. Samples are shared out among the devices (`shared_out`).
    """
    sampler.check(process)
    weak_apply = None if weak is None else weak.apply

    def walk(
        params: Params, keys: Keys, cond: Cond, times: Float[Array, "T"], guidance: Guidance
    ) -> tuple[Images, Float[Array, "..."]]:
        bound = process.bind(params)
        denoise = guide(bound, model.apply, params, cond, guidance, limit=limit, weak=weak_apply)
        return from_noise(
            sampler, bound.schedule, denoise, keys, shape, times,
            frames=FILM_FRAMES, watched=min(len(keys), FILM_IMAGES),
        )  # fmt: skip

    return shared_out(walk)


def shared_out(walk: Draw, *, frugal: bool = False) -> Draw:
    """Compiles (params, keys, rows, times, guidance) -> (images, film) over this process's devices.

    The keys and the leaves of `rows`, one a sample, are cut evenly among the most devices that
    divide their number; params, times and what the guidance has for all samples go to each.
    frugal: compiled for a network that fills both the cores and the memory of a CPU.
    """

    @functools.partial(jax.jit, compiler_options=cpu_options(LARGE if frugal else {}))
    def compiled(
        params: Params, keys: Keys, rows: Any, times: Float[Array, "T"], guidance: Guidance
    ) -> tuple[Images, Float[Array, "..."]]:
        given = (WHOLE, SAMPLE, SAMPLE, WHOLE, guidance.by_sample(SAMPLE, WHOLE))
        made = (SAMPLE, PartitionSpec(None, "sample"))
        cut = jax.shard_map(
            walk, mesh=_mesh(len(keys)), in_specs=given, out_specs=made, check_vma=False
        )
        images, film = cut(params, keys, rows, times, guidance)
        return images, film[:, :FILM_IMAGES]

    def draw(
        params: Params,
        keys: Keys,
        rows: Any,
        times: Float[Array, "T"],
        guidance: Guidance = UNGUIDED,
    ) -> tuple[Images, Float[Array, "..."]]:
        # Where they lie on one device alone, as a run in training hands them over.
        params = jax.device_put(params, NamedSharding(_mesh(len(keys)), WHOLE))
        return compiled(params, keys, rows, times, guidance)

    return draw


def shared_rows(function: Callable[[Params, Any, Any], Any]) -> Callable[[Params, Any, Any], Any]:
    """Compiles (params, rows, whole) -> what is made of each row, over this process's devices.

    The leaves of `rows`, one a sample, are cut as `shared_out` cuts them; `whole` goes to each.
    """

    @jax.jit
    def compiled(params: Params, rows: Any, whole: Any) -> Any:
        mesh = _mesh(len(jax.tree.leaves(rows)[0]))
        cut = jax.shard_map(
            function, mesh=mesh, in_specs=(WHOLE, SAMPLE, WHOLE), out_specs=SAMPLE, check_vma=False
        )
        return cut(params, rows, whole)

    def run(params: Params, rows: Any, whole: Any) -> Any:
        mesh = _mesh(len(jax.tree.leaves(rows)[0]))
        return compiled(jax.device_put(params, NamedSharding(mesh, WHOLE)), rows, whole)

    return run


def cut_among(walk: Draw) -> Draw:
    """Compiles as `shared_out` does, for parameters that are cut among this process's devices.

    The compiler moves what a layer needs; no device holds all parameters. Always frugal.
    """
    return jax.jit(walk, compiler_options=cpu_options(LARGE))


def _mesh(samples: int) -> Mesh:
    devices = ordered(jax.local_devices())
    most = min(samples, len(devices))
    count = next(n for n in range(most, 0, -1) if samples % n == 0)
    return Mesh(np.asarray(devices[:count]), ("sample",))


def times_of(
    process: Process, params: Params, spacing: Spacing, steps: int, most: int | None = None
) -> Float[Array, "T"]:
    """The spacing's times, the last repeated up to the number of times of `most` steps.

    Raises UserError for more steps than that.
    """
    most = most or steps
    if steps > most:
        raise UserError(f"steps={steps}: this was compiled for up to {most}")
    times = spacing.times(process.bind(params).schedule, steps)
    return jnp.asarray(np.pad(times, (0, most - steps), mode="edge"))


def generate(
    draw: Draw,
    params: Params,
    key: Key[Array, ""],
    num: int,
    batch_size: int,
    times: Float[Array, "T"],
    cond: Cond = None,
    guidance: Guidance = UNGUIDED,
) -> tuple[Float[np.ndarray, "N h w c"], Float[np.ndarray, "F M h w c"]]:
    """`num` samples x0, the same whatever the batch size, and the first batch's film.

    cond and the guidance's arrays are of all of them, in order. The last batch is filled up, so
    that every batch has one shape and compiles once; so is each to a multiple of the devices.
    """
    batch_size, devices = min(batch_size, num), jax.local_device_count()
    if batch_size > devices:
        batch_size = -(-batch_size // devices) * devices
    made: list[np.ndarray] = []
    films: list[np.ndarray] = []
    for first, rows in padded(num, batch_size):
        keys = sample_keys(key, first, batch_size)
        own = guidance.rows(jnp.asarray(rows))
        x0, moments = draw(params, keys, rows_of(cond, rows), times, own)
        made.append(jax.device_get(x0))
        films = films or [jax.device_get(moments)]
    shown = int(np.count_nonzero(np.diff(np.asarray(times))))
    return np.concatenate(made)[:num], films[0][-shown:, :num]

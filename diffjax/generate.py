"""From trained parameters to images, in batches of any size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from diffjax.devices import ordered
from diffjax.display.images import to_uint8
from diffjax.errors import UserError
from diffjax.guidance.plan import Guidance, guide
from diffjax.process import Process
from diffjax.randomness import fold_in, normal, sample_keys
from diffjax.samplers.base import Sampler, sample
from diffjax.spacings.base import Spacing
from diffjax.typing import Images, Keys, Params

FILM_IMAGES, FILM_FRAMES = 25, 40  # a film of more is too large to send anyone
Draw = Callable[..., tuple[Images, Float[Array, "F N H W C"]]]
UNGUIDED = Guidance()
SAMPLE, WHOLE = PartitionSpec("sample"), PartitionSpec()


def make_draw(
    model: nn.Module,
    process: Process,
    sampler: Sampler,
    image_shape: tuple[int, int, int],
    *,
    weak: nn.Module | None = None,
    judge: nn.Module | None = None,
) -> Draw:
    """A compiled (params, keys, labels, times[, guidance]) -> (images in [-1, 1], film of some).

    labels are the network's condition, or None. The film is of the first images. It compiles once
    for each number of times, which `times_of` fills up to one number, whatever the numbers in the
    guidance. `weak` and `judge` are the networks of such guidance as has one. The images are shared
    out among the devices (`shared_out`).
    """
    sampler.check(process)
    weak_apply, judge_apply = (None if m is None else m.apply for m in (weak, judge))

    def walk(
        params: Params, keys: Keys, labels: Any, times: Float[Array, "T"], guidance: Guidance
    ) -> tuple[Images, Float[Array, "..."]]:
        bound = process.bind(params)
        _, sigma = bound.schedule.alpha_sigma(times[0])
        x = sigma * normal(fold_in(keys, 0), image_shape)
        denoise = guide(bound, model.apply, params, labels, guidance, weak_apply, judge_apply)
        return sample(
            sampler,
            bound.schedule,
            denoise,
            fold_in(keys, 1),
            x,
            times,
            frames=FILM_FRAMES,
            watched=min(len(x), FILM_IMAGES),
        )

    return shared_out(walk)


def shared_out(walk: Draw) -> Draw:
    """Compiles (params, keys, rows, times, guidance) -> (images, film) over this process's devices.

    The keys and the leaves of `rows`, one a sample, are cut evenly among the most devices that
    divide their number; params, times and what the guidance has for all samples go to each.
    """

    @jax.jit
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


def _mesh(samples: int) -> Mesh:
    devices = ordered(jax.local_devices())
    most = min(samples, len(devices))
    count = next(n for n in range(most, 0, -1) if samples % n == 0)
    return Mesh(np.asarray(devices[:count]), ("sample",))


def times_of(
    process: Process, params: Params, spacing: Spacing, steps: int, most: int | None = None
) -> Float[Array, "T"]:
    """The spacing's times, filled up with zeros to those of `most` steps.

    Raises UserError for more steps than that.
    """
    most = most or steps
    if steps > most:
        raise UserError(f"steps={steps}: this was compiled for up to {most}")
    times = spacing.times(process.bind(params).schedule, steps)
    return jnp.asarray(np.pad(times, (0, most - steps)))


def generate(
    draw: Draw,
    params: Params,
    seed: int,
    num: int,
    batch_size: int,
    times: Float[Array, "T"],
    labels: Int[np.ndarray, "N"] | None = None,
    guidance: Guidance = UNGUIDED,
) -> tuple[UInt8[np.ndarray, "N H W C"], UInt8[np.ndarray, "F M H W C"]]:
    """`num` images as bytes, the same whatever the batch size, and the first batch's film.

    labels and the guidance's arrays are of all of them, in order. The last batch is filled up, so
    that every batch has one shape and compiles once; so is each to a multiple of the devices.
    """
    batch_size, devices = min(batch_size, num), jax.local_device_count()
    if batch_size > devices:
        batch_size = -(-batch_size // devices) * devices
    made: list[np.ndarray] = []
    films: list[np.ndarray] = []
    for first in range(0, num, batch_size):
        keys = sample_keys(jax.random.key(seed), first, batch_size)
        rows = np.arange(first, first + batch_size) % num
        chosen = None if labels is None else jnp.asarray(labels[rows])
        images, moments = draw(params, keys, chosen, times, guidance.rows(jnp.asarray(rows)))
        made.append(to_uint8(jax.device_get(images)))
        films = films or [to_uint8(jax.device_get(moments))]
    shown = int(np.count_nonzero(np.diff(np.asarray(times))))
    return np.concatenate(made)[:num], films[0][-shown:, :num]

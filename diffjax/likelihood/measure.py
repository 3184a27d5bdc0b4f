"""From a trained network and images to bits/dim, in batches of any size, with standard errors."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.batches import padded
from diffjax.conditions.base import rows_of
from diffjax.likelihood.bounds import Bound, continuous_bound, discrete_bound, log_snr_times
from diffjax.likelihood.flow import uniform_nll
from diffjax.process import Process
from diffjax.randomness import fold_in, sample_keys
from diffjax.typing import Apply, Cond, Images, Keys, Params
from diffjax.variational_terms import levels_nll

REPEATS = 2  # independent values of an image, whose spread is what chance leaves of it
Values = dict[str, Float[np.ndarray, "R N"]]
Measure = Callable[..., Values]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How finely it is computed.

    steps: of the discrete bound. draws: times of each value of a bound. ode_steps: of the flow,
    each of four evaluations. probes: of each trace.
    """

    steps: int = 1000
    draws: int = 25
    ode_steps: int = 20
    probes: int = 1


class Estimate(NamedTuple):
    """A mean over images and its standard error, of images and draws together.

    draws_error is the part that the draws have in it: all of it for these very images.
    """

    mean: float
    error: float
    draws_error: float


def estimate(values: Float[np.ndarray, "R N"]) -> Estimate:
    """The mean over N >= 2 images, of each of which there are R >= 2 independent values."""
    repeats, count = values.shape
    values = values.astype(np.float64)
    of_images = values.mean(axis=0)
    within = values.var(axis=0, ddof=1).mean() / repeats
    return Estimate(
        float(of_images.mean()),
        float(of_images.std(ddof=1) / np.sqrt(count)),
        float(np.sqrt(within / count)),
    )


def bits_per_dim(nats: Float[Array, "..."], dims: int) -> Float[Array, "..."]:
    """Nats an image as bits a pixel and channel."""
    return nats / (dims * np.log(2))


def make_measure(
    apply: Apply,
    process: Process,
    params: Params,
    effort: Effort,
    names: Sequence[str] = ("discrete", "continuous", "flow"),
) -> Measure:
    """A compiled (images, cond, seed, batch_size[, progress]) -> bits/dim by name.

    Names are `discrete total`, its terms `discrete prior` and so on, those of `continuous`, and
    `flow`; `names` chooses among the three. Images have 256 levels in [-1, 1]; cond is the
    network's condition, or None. The first time is 1 / T, below which a network has seen nothing.
    Values do not depend on the batch size; the last batch is filled up, so that all have one shape
    and compile once. `progress` wraps the list of what is computed one after the other.
    """
    ways = _compiled(apply, process.bind(params), effort)
    compiled = {name: ways[name] for name in names}

    def measure(
        images: Float[np.ndarray, "N H W C"],
        cond: Cond,
        seed: int,
        batch_size: int,
        progress: Callable[[list[Any]], Iterable[Any]] = iter,
    ) -> Values:
        count, batch_size = len(images), min(batch_size, len(images))
        parts: dict[tuple[str, int], list[np.ndarray]] = {}
        for (first, rows), name, repeat in progress(
            list(itertools.product(padded(count, batch_size), compiled, range(REPEATS)))
        ):
            keys = fold_in(sample_keys(jax.random.key(seed), first, batch_size), repeat)
            found = compiled[name](params, keys, jnp.asarray(images[rows]), rows_of(cond, rows))
            for term, nats in _named(name, found).items():
                bits = np.asarray(bits_per_dim(nats, images[0].size))
                parts.setdefault((term, repeat), []).append(bits)
        joined = {at: np.concatenate(pieces)[:count] for at, pieces in parts.items()}
        terms = dict.fromkeys(term for term, _ in joined)
        return {term: np.stack([joined[term, r] for r in range(REPEATS)]) for term in terms}

    return measure


def _compiled(apply: Apply, process: Process, effort: Effort) -> dict[str, Callable[..., Any]]:
    """By name, (params, keys, images, cond) -> nats: a Bound, or those of the flow."""
    first = 1 / process.schedule.steps
    times = jnp.asarray(log_snr_times(process.schedule, first, 2 * effort.ode_steps + 1))

    def discrete(params: Params, keys: Keys, x0: Images, cond: Cond) -> Bound:
        denoise = process.denoiser(apply, params, cond)
        size = {"steps": effort.steps, "draws": effort.draws}
        return discrete_bound(process.schedule, denoise, keys, x0, levels_nll, **size)

    def continuous(params: Params, keys: Keys, x0: Images, cond: Cond) -> Bound:
        denoise = process.denoiser(apply, params, cond)
        options = (process.schedule, denoise, keys, x0, levels_nll, times)
        return continuous_bound(*options, draws=effort.draws)

    def flow(params: Params, keys: Keys, x0: Images, cond: Cond) -> Float[Array, "B"]:
        denoise = process.denoiser(apply, params, cond)
        options = (process.schedule, denoise, keys, x0, times)
        return uniform_nll(*options, probes=effort.probes).mean(axis=0)

    return {f.__name__: jax.jit(f) for f in (discrete, continuous, flow)}


def _named(name: str, found: Bound | Float[Array, "B"]) -> dict[str, Float[Array, "B"]]:
    if not isinstance(found, Bound):
        return {name: found}
    terms = {"total": found.total, **found._asdict()}
    return {f"{name} {term}": nats for term, nats in terms.items()}

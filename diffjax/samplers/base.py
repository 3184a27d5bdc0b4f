"""What a sampler is, and the one loop that runs them all."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.randomness import fold_in, normal
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing
from diffjax.spacings.trailing import Trailing
from diffjax.typing import Denoiser, Images, Keys, Times


@runtime_checkable
class Sampler(Protocol):
    """One step of a reverse process, from time t to s < t."""

    @property
    def order(self) -> int:
        """The order of the error in the step size; 0 where noise is drawn."""

    @property
    def spacing(self) -> Spacing:
        """The times it does best on."""
        return Trailing()

    def nfe(self, steps: int) -> int:
        """How often it calls the denoiser in `steps` steps that end at t = 0."""
        return steps

    def check(self, process: Process) -> None:
        """Raises UserError, naming what would do, for a process that it cannot serve."""
        if process.consistent:
            raise UserError(
                f"sampler {type(self).__name__} cannot draw from a consistency model, which jumps "
                "to the image: choose sampler consistency"
            )

    def init(self, x: Images, steps: Int[Array, ""]) -> Any:
        """What is remembered before the first of `steps` steps; nothing, unless overridden."""
        return ()

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: Any,
        t: Times,
        s: Times,
    ) -> tuple[Images, Any]:
        """x and the memory at time s; `keys` are for this step's noise."""


def sample(
    sampler: Sampler,
    schedule: Schedule,
    denoise: Denoiser,
    keys: Keys,
    x: Images,
    times: Float[Array, "T"],
    *,
    frames: int = 1,
    watched: int = 0,
) -> tuple[Images, Float[Array, "F N H W C"]]:
    """Walks x down `times` (in [0, 1]); also a film of the first `watched` images.

    A step between two equal times does nothing and calls nothing: so one compilation serves fewer
    steps than it was made for, once the last of their times is repeated. The film holds `frames`
    evenly spaced moments, the last of them the result; fewer steps than that fill the last ones.
    """
    steps = times.shape[0] - 1
    frames = min(frames, steps)
    film = jnp.zeros((frames, watched, *x.shape[1:]), x.dtype)
    taken = jnp.cumsum(times[:-1] != times[1:])
    count = taken[-1]

    def body(carry: Any, at: Any) -> tuple[Any, None]:
        i, t, s = at

        def walk(carry: Any) -> Any:
            x, memory, film = carry
            x, memory = sampler.step(schedule, denoise, fold_in(keys, i), x, memory, t, s)
            # The k-th of n steps is the frame k frames / n, counted from the end.
            frame = frames - 1 - (count - 1 - i) * frames // jnp.maximum(count, frames)
            return x, memory, film.at[frame].set(x[:watched])

        return lax.cond(t != s, walk, lambda carry: carry, carry), None

    start = (x, sampler.init(x, count), film)
    (x, _, film), _ = lax.scan(body, start, (taken - 1, times[:-1], times[1:]))
    return x, film


def from_noise(
    sampler: Sampler,
    schedule: Schedule,
    denoise: Denoiser,
    keys: Keys,
    shape: tuple[int, int, int],
    times: Float[Array, "T"],
    *,
    frames: int = 1,
    watched: int = 0,
) -> tuple[Images, Float[Array, "F N H W C"]]:
    """As `sample`, from noise that each sample's key draws."""
    x = first_noise(schedule, keys, shape, times[0])
    own = fold_in(keys, 1)
    return sample(sampler, schedule, denoise, own, x, times, frames=frames, watched=watched)


def first_noise(
    schedule: Schedule, keys: Keys, shape: tuple[int, int, int], t: Times
) -> Float[Array, "B H W C"]:
    """The noise that `from_noise` starts from at time t."""
    _, sigma = schedule.alpha_sigma(t)
    return sigma * normal(fold_in(keys, 0), shape)

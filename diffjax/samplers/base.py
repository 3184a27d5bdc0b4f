"""What a sampler is, and the one loop that runs them all."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.randomness import fold_in
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times


@runtime_checkable
class Sampler(Protocol):
    """One step of a reverse process, from time t to s < t."""

    @property
    def order(self) -> int:
        """The order of the error in the step size; 0 where noise is drawn."""

    def init(self, x: Images) -> Any:
        """What a multistep method remembers before the first step; nothing, unless overridden."""
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


def uniform_times(steps: int) -> Float[Array, "T"]:
    """steps + 1 times from 1 down to 0, evenly spaced ("trailing": Lin et al. 2024, section 3.3).

    Raises UserError for steps < 1.
    """
    if steps < 1:
        raise UserError(f"steps={steps}: take at least one sampling step")
    return jnp.arange(steps, -1, -1, dtype=jnp.float32) / steps


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
    """Walks x down `times` (falling, in [0, 1]); also a film of the first `watched` images.

    The film holds at most `frames` evenly spaced moments, the last of them the result.
    """
    count = times.shape[0] - 1
    frames = min(frames, count)
    film = jnp.zeros((frames, watched, *x.shape[1:]), x.dtype)

    def body(carry: Any, at: Any) -> tuple[Any, None]:
        x, memory, film = carry
        i, t, s = at
        x, memory = sampler.step(schedule, denoise, fold_in(keys, i), x, memory, t, s)
        return (x, memory, film.at[i * frames // count].set(x[:watched])), None

    start = (x, sampler.init(x), film)
    (x, _, film), _ = lax.scan(body, start, (jnp.arange(count), times[:-1], times[1:]))
    return x, film

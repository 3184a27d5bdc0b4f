"""A teacher as students see it: a network with frozen weights, whose flow can be followed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.typing import Cond, Denoiser, Images, Keys, Times

Teacher = Callable[[Cond], Denoiser]  # from a batch's condition, None where there is none


def follow(
    solver: Sampler,
    schedule: Schedule,
    teacher: Teacher,
    cond: Cond,
    keys: Keys,
    x: Images,
    t: Float[Array, "B"],
    s: Float[Array, "B"],
) -> Images:
    """x at times s, a step of `solver` down from times t in (0, 1], 0 <= s < t, the samples' own.

    A solver knows one time for all: so each sample is a batch of one, and vmap joins them again.
    """

    def one(cond: Cond, key: Keys, x: Images, t: Times, s: Times) -> Images:
        memory = solver.init(x, jnp.ones((), int))
        there, _ = solver.step(schedule, teacher(cond), key, x, memory, t, s)
        return there

    cond, keys, x = jax.tree.map(lambda a: jnp.expand_dims(a, 1), (cond, keys, x))
    return jax.vmap(one)(cond, keys, x, t, s)[:, 0]

"""An edit, compiled for `diffjax.generate.generate`."""

from collections.abc import Callable

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from diffjax.editing.base import Edit
from diffjax.generate import FILM_FRAMES, FILM_IMAGES, UNGUIDED, Draw, shared_out
from diffjax.guidance.plan import Guidance, guide
from diffjax.process import Process
from diffjax.randomness import fold_in
from diffjax.samplers.base import sample
from diffjax.typing import Cond, Images, Keys, Params


def make_edit_walk(
    model: nn.Module,
    process: Process,
    *,
    limit: float | None = 1.0,
    weak: nn.Module | None = None,
    compiled: Callable[[Draw], Draw] = shared_out,
) -> Draw:
    """A compiled (params, keys, (edit, cond), times[, guidance]) -> (x0, film of some).

    The arrays of the edit and of cond, the network's condition or None, lead with the batch's B.
    It compiles once for each sampler and number of times, whatever the arrays hold.
    """
    weak_apply = None if weak is None else weak.apply

    def walk(
        params: Params,
        keys: Keys,
        rows: tuple[Edit, Cond],
        times: Float[Array, "T"],
        guidance: Guidance,
    ) -> tuple[Images, Float[Array, "..."]]:
        edit, cond = rows
        bound = process.bind(params)
        x = edit.start(bound.schedule, fold_in(keys, 0), times[0])
        denoise = guide(bound, model.apply, params, cond, guidance, limit=limit, weak=weak_apply)
        return sample(
            edit,
            bound.schedule,
            denoise,
            fold_in(keys, 1),
            x,
            times,
            frames=FILM_FRAMES,
            watched=min(len(x), FILM_IMAGES),
        )

    return compiled(walk)


def make_edit_draw(
    model: nn.Module,
    process: Process,
    edit: Edit,
    cond: Cond = None,
    *,
    limit: float | None = 1.0,
    weak: nn.Module | None = None,
) -> Draw:
    """As `generate.make_draw`, of N samples: a batch is told by their numbers in place of cond.

    edit and cond, the network's condition or None, are of all N.
    """
    edit.check(process)
    walk = make_edit_walk(model, process, limit=limit, weak=weak)

    def draw(
        params: Params,
        keys: Keys,
        numbers: Int[Array, "B"],
        times: Float[Array, "T"],
        guidance: Guidance = UNGUIDED,
    ) -> tuple[Images, Float[Array, "..."]]:
        index = np.asarray(numbers)
        rows = jax.tree.map(lambda leaf: leaf[index], (edit, cond))
        return walk(params, keys, rows, times, guidance)

    return draw

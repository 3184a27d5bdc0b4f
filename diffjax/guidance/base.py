"""Guidance away from a second prediction: where the two come from, and when it acts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffjax.process import Process, expand
from diffjax.schedules.base import Schedule
from diffjax.typing import Apply, Cond, Denoiser, Images, Params, Prediction, Times

Scale = Float[Array, ""] | Float[Array, "B"]  # one for all, or one a sample; 1 is off
# (x, t, wanted, unwanted, scale) -> what is made of the two; at scale 1 that is the wanted one.
Rule = Callable[[Images, Times, Prediction, Prediction, Scale], Prediction]


def are_scales(values: Any) -> bool:
    """Whether all values are finite as float32, which arrays of scales hold."""
    return bool((np.abs(np.asarray(values, np.float64)) <= np.finfo(np.float32).max).all())


class Pair(NamedTuple):
    """The prediction that is wanted, alone, and together with the one to go away from."""

    alone: Denoiser
    both: Callable[[Images, Times], tuple[Prediction, Prediction]]


def doubled(process: Process, apply: Apply, params: Params, cond: Cond, unwanted: Cond) -> Pair:
    """One network under two conditions, both in one call on a batch of twice the size.

    `unwanted` is the null condition of classifier-free guidance (Ho & Salimans 2022), or a negative
    one; its leaves, like those of `cond`, lead with B.
    """

    def both(x: Images, t: Times) -> tuple[Prediction, Prediction]:
        conds = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), cond, unwanted)
        times = jnp.concatenate([t, t]) if t.ndim else t
        out = process.denoiser(apply, params, conds)(jnp.concatenate([x, x]), times)
        wanted = jax.tree.map(lambda a: a[: len(x)], out)
        return wanted, jax.tree.map(lambda a: a[len(x) :], out)

    return Pair(process.denoiser(apply, params, cond), both)


def versus(strong: Denoiser, weak: Denoiser) -> Pair:
    """Two denoisers of one schedule: autoguidance, where the second is a worse model of the same.

    (Karras et al. 2024, "Guiding a diffusion model with a bad version of itself".)
    """
    return Pair(strong, lambda x, t: (strong(x, t), weak(x, t)))


def in_interval(
    schedule: Schedule, scale: Scale, low: Float[Array, ""], high: Float[Array, ""]
) -> Callable[[Times], Scale]:
    """The scale where low < sigma / alpha <= high, 1 elsewhere (Kynkäänniemi et al. 2024).

    Bounds in sigma / alpha, as that paper has them, mean the same in every schedule.
    """

    def at(t: Times) -> Scale:
        noise = schedule.sigma_ve(t)
        return jnp.where((low < noise) & (noise <= high), scale, 1.0)

    return at


def guided(pair: Pair, scale: Scale | Callable[[Times], Scale], rule: Rule) -> Denoiser:
    """What `rule` makes of the pair, with a scale that may be a function of the time.

    Where the scale is 1 for the whole batch the unwanted prediction is not computed.
    """

    def denoise(x: Images, t: Times) -> Prediction:
        now = scale(t) if callable(scale) else scale
        return lax.cond(
            jnp.any(now != 1),
            lambda: rule(x, t, *pair.both(x, t), now),
            lambda: pair.alone(x, t),
        )

    return denoise


def with_x0(
    schedule: Schedule, x: Images, t: Times, x0: Images, fraction: Images | None
) -> Prediction:
    """The prediction of this x0, t in (0, 1]: eps follows from x = alpha x0 + sigma eps."""
    alpha, sigma = (expand(c, x) for c in schedule.alpha_sigma(t))
    return Prediction(x0, (x - alpha * x0) / sigma, fraction)

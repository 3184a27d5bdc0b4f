"""Optimizers as runs use them: of one network, of two that play against each other, of CLIP."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffjax.optimizers.adam import Adam
from diffjax.optimizers.base import Optimizer
from diffjax.rates.base import RateLaw
from diffjax.rates.cosine import CosineDecay
from diffjax.typing import Params


def make_optimizer(
    learning_rate: float,
    steps: int,
    *,
    warmup_steps: int = 0,
    grad_clip: float = 1.0,
    optimizer: Optimizer | None = None,
    rate: RateLaw | None = None,
) -> optax.GradientTransformation:
    """An optimizer, by default Adam, behind a clip of the gradient's norm; grad_clip 0 clips none.

    The rate climbs in a line over warmup_steps, and then follows its law, by default a cosine that
    is 0 at `steps`.
    """
    at = (rate or CosineDecay()).schedule(learning_rate, steps, warmup_steps)
    return optax.chain(_clip(grad_clip), (optimizer or Adam()).transformation(at))


def for_contrast(
    learning_rate: float,
    steps: int,
    *,
    warmup_steps: int = 0,
    grad_clip: float = 1.0,
    weight_decay: float = 0.2,
    highest: float,
) -> optax.GradientTransformation:
    """AdamW as CLIP is trained (Radford et al. 2021, sec. 2.5 and table 18).

    Matrices alone decay: gains, biases and the temperature do not. Every leaf called `logit_scale`
    is kept at `highest` or below. The rate and the clip are those of `make_optimizer`.
    """
    rate = CosineDecay().schedule(learning_rate, steps, warmup_steps)
    adam = optax.adamw(rate, 0.9, 0.98, 1e-6, weight_decay=weight_decay, mask=_matrices)
    return optax.chain(_clip(grad_clip), adam, _kept_below("logit_scale", highest))


def _clip(grad_clip: float) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(grad_clip) if grad_clip else optax.identity()


def _matrices(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _kept_below(name: str, highest: float) -> optax.GradientTransformation:
    """Cuts updates so that leaves of this name end at `highest` or below."""

    def cut(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
        if path[-1].key != name:
            return update
        return jnp.minimum(param + update, highest) - param

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        return jax.tree_util.tree_map_with_path(cut, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def two_time_scales(
    rates: Mapping[str, float],
    *,
    warmup_steps: int = 0,
    betas: tuple[float, float] = (0.5, 0.99),
) -> optax.GradientTransformation:
    """Adam with a rate for each network by name (Heusel et al. 2017), which climb and then stay.

    Nothing is clipped: a common norm would let one network's gradient shorten the other's step.
    """

    def adam(rate: float) -> optax.GradientTransformation:
        climb = optax.linear_schedule(rate / (warmup_steps + 1), rate, warmup_steps)
        return optax.adam(climb, *betas)

    own = {name: adam(rate) for name, rate in rates.items()}
    return optax.partition(own, {name: name for name in rates})

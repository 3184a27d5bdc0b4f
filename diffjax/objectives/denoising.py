"""Denoising score matching."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.objectives import dropout
from diffjax.process import Process
from diffjax.randomness import normal
from diffjax.typing import Apply, Keys, Params, Times


def draw_times(keys: Keys, steps: int) -> Times:
    """A time a sample, uniform on DDPM's grid 1/T, 2/T ... 1."""
    index = jax.vmap(lambda key: jax.random.randint(key, (), 1, steps + 1))(keys)
    return index / steps


def denoising_loss(
    process: Process, apply: Apply, *, conditional: bool = False
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]:
    """The simple loss (Ho et al. 2020, eq. 14) in the process's own target.

    The batch holds `image` in [-1, 1], and `label` where `conditional`.
    """

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        x0 = batch["image"]
        time_keys, noise_keys, drop_keys = jax.vmap(lambda k: jax.random.split(k, 3), out_axes=1)(
            keys
        )
        t = draw_times(time_keys, process.schedule.steps)
        eps = normal(noise_keys, x0.shape[1:])
        cond = (batch["label"],) if conditional else ()
        with dropout.by_sample(drop_keys):
            output = apply(
                {"params": params},
                process.q_sample(x0, eps, t),
                process.model_time(t),
                *cond,
                train=True,
            )
        loss = jnp.mean((output - process.target_of(x0, eps, t)) ** 2)
        return loss, {}

    return loss_fn

"""Diffusion of codes: each turns into a mask at a random time, and a network tells what it was.

(Austin et al. 2021, "Structured denoising diffusion models", sec. 3.2; Sahoo et al. 2024, "Simple
and effective masked diffusion language models".) A share t of the codes is masked at time t.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from diffjax.conditions.base import Condition
from diffjax.objectives import dropout
from diffjax.objectives.noising import LossFn
from diffjax.process import told
from diffjax.randomness import fold_in
from diffjax.time_laws.base import uniform
from diffjax.typing import Apply, Cond, Keys, Params

Codes = Int[Array, "B h w"]
TIMES = 1000  # that networks count from 0 to 1


class Path(NamedTuple):
    """The codes at the end, and those of the first images after each step, masks being K."""

    codes: Codes
    film: Int[Array, "T N h w"]


def shown(codes: Codes, masked: Bool[Array, "B h w"], num_codes: int) -> Float[Array, "B h w K1"]:
    """Codes as a network takes them: one of num_codes + 1 channels is 1, the last for a mask."""
    return jax.nn.one_hot(jnp.where(masked, num_codes, codes), num_codes + 1)


def absorbing_loss(apply: Apply, num_codes: int, condition: Condition) -> LossFn:
    """The bound on a code's -log p, in nats: the masked codes' at a uniform t, over t.

    (Sahoo et al. 2024, sec. 3, with alpha = 1 - t.) The batch holds `codes` and what the condition
    reads; the network returns a logit for each code.
    """

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        codes = batch["codes"]
        t = uniform(fold_in(keys, 0))
        draw = jax.vmap(lambda key: jax.random.uniform(key, codes.shape[1:]))
        masked = draw(fold_in(keys, 1)) < t[:, None, None]
        cond = condition.hide(keys, condition.of_batch(batch))
        with dropout.by_sample(fold_in(keys, 2)):
            x = shown(codes, masked, num_codes)
            logits = apply({"params": params}, x, _index(t), *told(cond), train=True)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], -1)[..., 0]
        return jnp.mean(jnp.where(masked, -log_p, 0.0) / t[:, None, None]), {}

    return loss_fn


def unmask(
    apply: Apply, params: Params, keys: Keys, cond: Cond, shape: tuple[int, int], num_codes: int,
    steps: int, watched: int,
) -> Path:  # fmt: skip
    """Codes from nothing but masks, in so many even steps of t from 1 to 0.

    In a step from t to s each mask becomes a drawn code with probability (t - s) / t, and what is
    no mask stays (ibid., sec. 3). `watched`: the number of images that are filmed.
    """

    def step(codes: Codes, i: Int[Array, ""]) -> tuple[Codes, Int[Array, "N h w"]]:
        masked = codes == num_codes
        own = fold_in(keys, i)
        t = jnp.full(len(keys), 1 - i / steps)
        logits = apply({"params": params}, shown(codes, masked, num_codes), _index(t), *told(cond))
        drawn = jax.vmap(jax.random.categorical)(fold_in(own, 0), logits)
        chance = jax.vmap(lambda key: jax.random.uniform(key, shape))(fold_in(own, 1))
        # (t - s) / t; at the last step 1, however it is rounded.
        reveals = masked & ((chance < 1 / (steps - i)) | (i == steps - 1))
        codes = jnp.where(reveals, drawn, codes)
        return codes, codes[:watched]

    start = jnp.full((len(keys), *shape), num_codes)
    return Path(*lax.scan(step, start, jnp.arange(steps)))


def _index(t: Float[Array, "B"]) -> Float[Array, "B"]:
    return t * TIMES - 1

"""Distribution matching distillation: the images of a student, as a whole, become the teacher's."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffjax.conditions.base import Condition
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.objectives import dropout
from diffjax.objectives.teacher import Teacher
from diffjax.process import Process
from diffjax.randomness import normal
from diffjax.typing import Apply, Keys, Params

# Times at which both networks are asked (Yin et al. 2024a): at the ends nothing is told.
LOW, HIGH = 0.02, 0.98


def distribution_matching_loss(
    process: Process,
    apply: Apply,
    teacher: Teacher,
    steps: int,
    *,
    condition: Condition = Unconditional(),  # noqa: B008 - frozen
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]:
    """Moves what a student draws where the teacher finds it likelier (Yin et al. 2024a, eq. 7).

    params is {"student": ..., "critic": ...}, two networks of `apply`. The critic learns to denoise
    what the student draws. Where the teacher's x0 of a noisy image differs from the critic's, the
    image is pulled along the difference, divided by the mean distance from the teacher's x0
    (eq. 8): that is the gradient of the divergence of the two distributions. Each network's
    gradient is that of its own loss alone.

    The student draws from times i / steps, where it sees noisy images of the batch, and at 1 next
    to nothing but noise (2024b, "Improved distribution matching distillation", without its
    simulation of steps). The batch holds `image`, x0, and what the condition reads. Raises
    UserError for a process that is not consistent and for fewer than one step.
    """
    if not process.consistent:
        raise UserError("a student in one step needs a consistent process: consistent=True")
    if steps < 1:
        raise UserError(f"a student of {steps} steps: choose 1 or more")
    plain = dataclasses.replace(process, consistent=False)
    trained = functools.partial(apply, train=True)

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        x0, cond = batch["image"], condition.of_batch(batch)
        shape = x0.shape[1:]
        time_keys, noise_keys, again_keys, later_keys, drop_keys = jax.vmap(
            lambda key: jax.random.split(key, 5), out_axes=1
        )(keys)
        index = jax.vmap(lambda key: jax.random.randint(key, (), 1, steps + 1))(time_keys)
        t = index / steps
        x = process.q_sample(x0, normal(noise_keys, shape), t)
        with dropout.by_sample(drop_keys):
            made = process.denoiser(trained, params["student"], cond)(x, t).x0
        fixed = lax.stop_gradient(made)
        s = LOW + (HIGH - LOW) * jax.vmap(jax.random.uniform)(again_keys)
        eps = normal(later_keys, shape)
        noisy = plain.q_sample(fixed, eps, s)
        with dropout.by_sample(drop_keys):
            told = plain.denoiser(trained, params["critic"], cond)(noisy, s)
        gap = plain.target_of(told.x0, told.eps, s) - plain.target_of(fixed, eps, s)
        goal = teacher(cond)(noisy, s).x0
        distance = jnp.mean(jnp.abs(fixed - goal), axis=(1, 2, 3), keepdims=True)
        pull = lax.stop_gradient((told.x0 - goal) / jnp.maximum(distance, 1e-6))
        # Of which the gradient in `made` is the pull.
        own = {
            "student_loss": 0.5 * jnp.mean((made - (fixed - pull)) ** 2),
            "critic_loss": jnp.mean(gap**2),
        }
        return own["student_loss"] + own["critic_loss"], own

    return loss_fn

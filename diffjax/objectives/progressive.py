"""Progressive distillation: a student takes in one step what its teacher takes in two."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffjax.conditions.base import Condition
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.objectives import dropout
from diffjax.objectives.teacher import Teacher, follow
from diffjax.process import Process, expand
from diffjax.randomness import normal
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.base import Schedule
from diffjax.typing import Apply, Cond, Images, Keys, Params, Prediction, Times
from diffjax.weightings.base import Weighting
from diffjax.weightings.truncated_snr import TruncatedSNR


def progressive_loss(
    process: Process,
    apply: Apply,
    teacher: Teacher,
    steps: int,
    *,
    weighting: Weighting = TruncatedSNR(),  # noqa: B008 - frozen
    condition: Condition = Unconditional(),  # noqa: B008 - frozen
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]:
    """The loss of a student of `steps` DDIM steps, its teacher's being twice as many.

    That is Salimans & Ho 2022, algorithm 2. The batch holds `image`, x0, and what the
    condition reads. Raises UserError unless steps is 1 to half the schedule's.
    """
    most = process.schedule.steps // 2
    if not 1 <= steps <= most:
        raise UserError(f"a student of {steps} steps: choose 1 to {most}, half the schedule's")

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        x0 = batch["image"]
        time_keys, noise_keys, drop_keys = jax.vmap(lambda k: jax.random.split(k, 3), out_axes=1)(
            keys
        )
        index = jax.vmap(lambda key: jax.random.randint(key, (), 1, steps + 1))(time_keys)
        t = index / steps
        x = process.q_sample(x0, normal(noise_keys, x0.shape[1:]), t)
        cond = condition.of_batch(batch)
        goal = two_steps(process.schedule, teacher, cond, keys, x, index, steps)
        with dropout.by_sample(drop_keys):
            student = process.denoiser(functools.partial(apply, train=True), params, cond)
            found = student(x, t)
        gap = process.target_of(found.x0, found.eps, t) - process.target_of(goal.x0, goal.eps, t)
        return jnp.mean(expand(weighting.of_target(process, t), x) * gap**2), {}

    return loss_fn


def two_steps(
    schedule: Schedule,
    teacher: Teacher,
    cond: Cond,
    keys: Keys,
    x: Images,
    index: Int[Array, "B"],
    steps: int,
) -> Prediction:
    """With what one DDIM step from t = index / steps ends where two of the teacher's do.

    All lead to s = t - 1 / steps; where s is 0, the x0 is the teacher's of its second step.
    """
    # Each time from a whole number: s is 0 at the end, not what is left of a difference.
    t, between, s = index / steps, (index - 0.5) / steps, (index - 1) / steps
    walk = functools.partial(follow, DDIM(), schedule, teacher, cond, keys)
    return of_step(schedule, x, walk(walk(x, t, between), between, s), t, s)


def of_step(schedule: Schedule, x: Images, end: Images, t: Times, s: Times) -> Prediction:
    """With what a DDIM step from x at t ends in `end` at s < t (Song et al. 2021, eq. 12)."""
    alpha, sigma = (expand(c, x) for c in schedule.alpha_sigma(t))
    alpha_s, sigma_s = (expand(c, x) for c in schedule.alpha_sigma(s))
    # alpha_s - sigma_s alpha / sigma, which in a small step is the difference of two near numbers.
    share = -alpha_s * expand(jnp.expm1((schedule.log_snr(t) - schedule.log_snr(s)) / 2), x)
    x0 = (end - sigma_s / sigma * x) / share
    return Prediction(x0, (x - alpha * x0) / sigma)

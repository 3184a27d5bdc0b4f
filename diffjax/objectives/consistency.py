"""Consistency distillation and consistency training: one image for all that lies on one path."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from diffjax.conditions.base import Condition
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.objectives import dropout
from diffjax.objectives.teacher import Teacher, follow
from diffjax.process import Process
from diffjax.randomness import normal
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.base import Schedule
from diffjax.spacings.trailing import Trailing
from diffjax.time_laws.base import TimeLaw
from diffjax.time_laws.log_normal import LogNormal
from diffjax.typing import Apply, Images, Keys, Params

# Of log(sigma / alpha), and c over the root of the pixels (Song & Dhariwal 2024, table 1).
IMPROVED, HUBER = LogNormal(mean=-1.1, std=2.0), 0.00054


def consistency_loss(
    process: Process,
    apply: Apply,
    intervals: int,
    teacher: Teacher | None = None,
    *,
    solver: Sampler = DDIM(),  # noqa: B008 - frozen
    times: TimeLaw = IMPROVED,
    huber: float = HUBER,
    condition: Condition = Unconditional(),  # noqa: B008 - frozen
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]:
    """How far f(x_t, t) lies from f(x_s, s), t and s being neighbours on a grid of `intervals`.

    It is weighted by 1 / (sigma(t) - sigma(s)) (Song & Dhariwal 2024, eq. 8), sigma being the
    noise over alpha.

    x_s is where a step of `solver` on the teacher's flow leads from x_t (consistency distillation,
    Song et al. 2023, algorithm 2), or, without a teacher, of the same x0 and eps as x_t
    (consistency training, algorithm 3). f(x_s, s) is the student's own, held constant. `times` says
    how likely each interval is; the grid is fixed. The batch holds `image`, x0, and
    what the condition reads.

    Raises UserError for a process that is not consistent, a solver that draws noise or wants other
    times than even ones, and more or fewer intervals than the schedule's steps have.
    """
    if not process.consistent:
        raise UserError("a consistency loss needs a consistent process: Process(consistent=True)")
    if solver.order == 0:
        raise UserError(f"solver {type(solver).__name__} draws noise: choose one of order above 0")
    if solver.spacing != Trailing():
        # Heun's first step from t = 1 on a cosine is 2e4 noise levels long: no target to learn.
        raise UserError(
            f"solver {type(solver).__name__} errs on the even times of this grid: "
            "choose ddim or another that does best on trailing ones"
        )
    points = grid(process.schedule, intervals)

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        x0 = batch["image"]
        time_keys, noise_keys, drop_keys = jax.vmap(lambda k: jax.random.split(k, 3), out_axes=1)(
            keys
        )
        drawn, importance = times.draw(time_keys, process.schedule)
        visited = jnp.asarray(points)
        upper = jnp.clip(jnp.searchsorted(visited, drawn), 1, intervals)
        t, s = visited[upper], visited[upper - 1]
        eps = normal(noise_keys, x0.shape[1:])
        cond = condition.of_batch(batch)
        x_t = process.q_sample(x0, eps, t)
        if teacher is None:
            x_s = process.q_sample(x0, eps, s)
        else:
            x_s = follow(solver, process.schedule, teacher, cond, keys, x_t, t, s)
        student = process.denoiser(functools.partial(apply, train=True), params, cond)
        with dropout.by_sample(drop_keys):  # the same units in both
            target = jax.lax.stop_gradient(student(x_s, s).x0)
        with dropout.by_sample(drop_keys):
            found = student(x_t, t).x0
        sigma = process.schedule.sigma_ve
        weight = importance / (sigma(t) - sigma(s))
        return jnp.mean(weight * pseudo_huber(found - target, huber)), {}

    return loss_fn


def from_nothing(
    process: Process,
    apply: Apply,
    *,
    condition: Condition = Unconditional(),  # noqa: B008 - frozen
    times: TimeLaw = IMPROVED,
    intervals: int = 32,
) -> Callable[[Params, Keys, Mapping[str, Array]], tuple[Float[Array, ""], dict[str, Array]]]:
    """Consistency training without a teacher, on a grid that stays (Song & Dhariwal 2024).

    That paper doubles the intervals as training goes on. The rest is as in `consistency_loss`.
    """
    return consistency_loss(process, apply, intervals, times=times, condition=condition)


def grid(schedule: Schedule, intervals: int) -> Float32[np.ndarray, "T"]:
    """Rising times of the schedule's own steps, from the first of them to 1."""
    most = schedule.steps - 1
    if not 1 <= intervals <= most:
        raise UserError(
            f"intervals={intervals}: choose 1 to {most}, one less than the schedule's steps"
        )
    index = np.round(np.linspace(1, schedule.steps, intervals + 1))
    return (index / schedule.steps).astype(np.float32)


def pseudo_huber(gap: Images, c: float) -> Float[Array, "B"]:
    """sqrt(|gap|² + c² d) - c sqrt(d) for images of d numbers (Song & Dhariwal 2024, sec. 3.3)."""
    root = c * np.sqrt(gap[0].size)
    return jnp.sqrt(jnp.sum(gap**2, axis=(1, 2, 3)) + root**2) - root

"""Progressive distillation of a Gaussian's denoiser, of which two DDIM steps are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian, Mixture

from diffjax.errors import UserError
from diffjax.objectives.progressive import progressive_loss, two_steps
from diffjax.objectives.teacher import follow
from diffjax.process import Process
from diffjax.randomness import normal, sample_keys
from diffjax.samplers.base import sample
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.heun import Heun
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.variance_exploding import VarianceExploding
from diffjax.weightings.simple import Simple

SHAPE, STEPS = (2, 3, 1), 4
KEYS = sample_keys(jax.random.key(0), 0, 64)
BATCH = {"image": normal(sample_keys(jax.random.key(1), 0, 64), SHAPE)}
PROCESSES = [
    Process(Cosine(), "v"),
    Process(Linear(), "x0"),
    Process(Flow(), "velocity"),
    Process(VarianceExploding(), "edm"),
]


def teacher_of(oracle):
    return lambda cond: oracle.denoise


def ddim_walk(oracle, alpha, sigma):
    """Slope and offset of x after DDIM steps through these coefficients, in float64.

    On N(mean, std²) the mean of x0 is linear in x, so every step is.
    """
    slope, offset = 1.0, 0.0
    for (a, b), (c, d) in zip(
        zip(alpha[:-1], sigma[:-1], strict=True),
        zip(alpha[1:], sigma[1:], strict=True),
        strict=True,
    ):
        gain = a * oracle.std**2 / (a**2 * oracle.std**2 + b**2)
        x0_slope, x0_offset = gain, oracle.mean * (1 - gain * a)
        step = c * x0_slope + d * (1 - a * x0_slope) / b
        shift = c * x0_offset - d * a * x0_offset / b
        slope, offset = step * slope, step * offset + shift
    return slope, offset


def best_student(process, oracle):
    """Slope and offset of x0 in x at t = i / STEPS, by algebra: one DDIM step as the teacher's two.

    One step gives x_s = (alpha_s - sigma_s alpha / sigma) x0 + sigma_s / sigma x.
    """
    found = []
    for i in range(1, STEPS + 1):
        times = jnp.asarray([i, i - 0.5, i - 1]) / STEPS
        alpha, sigma = (np.asarray(c, np.float64) for c in process.schedule.alpha_sigma(times))
        slope, offset = ddim_walk(oracle, alpha, sigma)
        ratio = sigma[2] / sigma[0]
        share = alpha[2] - ratio * alpha[0]
        found.append(((slope - ratio) / share, offset / share))
    return jnp.asarray(found, jnp.float32)


def student_of(process):
    """A network of two numbers a time, whose x0 is linear in x, in the process's own target."""

    def apply(variables, x, index, train=False):
        t = (index + 1) / process.schedule.steps
        row = variables["params"][jnp.round(t * STEPS).astype(int) - 1]
        alpha, sigma = process.schedule.alpha_sigma(t)
        alpha, sigma, slope, offset = (
            c[:, None, None, None] for c in (alpha, sigma, row[:, 0], row[:, 1])
        )
        x = x / process.model_input(jnp.ones_like(x), t)  # the scale that networks see it on
        x0 = slope * x + offset
        return process.target_of(x0, (x - alpha * x0) / sigma, t)

    return apply


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
def test_the_best_student_takes_the_teachers_two_steps_in_one(process):
    oracle = Gaussian(process.schedule)
    best = best_student(process, oracle)
    apply = student_of(process)
    loss = jax.jit(
        lambda params: progressive_loss(process, apply, teacher_of(oracle), STEPS)(
            params, KEYS, BATCH
        )[0]
    )
    least = float(loss(best))
    # A hundredth off in any of the eight numbers is far worse than what float32 leaves.
    worse = [float(loss(best.at[i, j].add(0.01))) for i in range(STEPS) for j in range(2)]
    assert min(worse) > 20 * least, (least, worse)
    x = process.schedule.alpha_sigma(jnp.ones(()))[1] * normal(KEYS, SHAPE)
    student = process.denoiser(apply, best)
    walk = jax.jit(
        lambda x, denoise, n: sample(
            DDIM(), process.schedule, denoise, KEYS, x, jnp.linspace(1, 0, n + 1)
        )[0],
        static_argnums=(1, 2),
    )
    np.testing.assert_allclose(
        walk(x, student, STEPS), walk(x, oracle.denoise, 2 * STEPS), atol=2e-4
    )


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
def test_the_last_step_learns_the_teachers_own_image(process):
    """At t = 1 / N the second of the teacher's steps ends in its x0 (algorithm 2, s = 0)."""
    oracle, half = Gaussian(process.schedule), jnp.asarray(0.5 / STEPS)

    @jax.jit
    def both(x0, eps):
        x = process.q_sample(x0, eps, jnp.full(64, 1 / STEPS))
        last = jnp.ones(64, int)
        goal = two_steps(process.schedule, teacher_of(oracle), None, KEYS, x, last, STEPS)
        between, _ = DDIM().step(
            process.schedule, oracle.denoise, KEYS, x, (), jnp.asarray(1 / STEPS), half
        )
        return goal.x0, oracle.denoise(between, half).x0

    np.testing.assert_allclose(*both(BATCH["image"], normal(KEYS, SHAPE)), atol=1e-6)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
def test_targets_are_finite_at_every_time(process):
    """In the shortest steps that there are, from pure noise to the image."""
    steps = process.schedule.steps // 2
    index = jnp.arange(1, steps + 1)
    keys = sample_keys(jax.random.key(2), 0, steps)

    @jax.jit
    def goal(x0, eps):
        x = process.q_sample(x0, eps, index / steps)
        teacher = teacher_of(Gaussian(process.schedule))
        return two_steps(process.schedule, teacher, None, keys, x, index, steps)

    found = goal(jnp.ones((steps, *SHAPE)), normal(keys, SHAPE))
    assert np.isfinite(found.x0).all()
    assert np.isfinite(found.eps).all()


@pytest.mark.parametrize("solver", [DDIM(), Heun()], ids=lambda s: type(s).__name__)
def test_a_step_of_each_samples_own_is_the_samplers(solver):
    """Sample by sample, at its own times and under its own condition."""
    schedule, t, s = Linear(), jnp.asarray([0.9, 0.4, 0.2]), jnp.asarray([0.5, 0.3, 0.0])
    x, oracle, cond = normal(KEYS[:3], SHAPE), Mixture(schedule), jnp.asarray([0.0, 1.0, -1.0])

    def teacher(cond):
        return lambda x, t: oracle.denoise(x + cond[:, None, None, None], t)

    alone = jax.jit(
        lambda cond, key, x, t, s: solver.step(schedule, teacher(cond), key, x, (), t, s)[0]
    )
    follows = jax.jit(lambda *given: follow(solver, schedule, teacher, *given))
    together = follows(cond, KEYS[:3], x, t, s)
    for i in range(3):
        one = slice(i, i + 1)
        apart = alone(cond[one], KEYS[one], x[one], t[i], s[i])
        np.testing.assert_allclose(together[one], apart, atol=1e-5)


def test_weighting_is_of_the_targets_error():
    """`simple` of a v process: the loss is the mean square of v's error, so 1 for v off by 1."""
    process = PROCESSES[0]
    oracle = Gaussian(process.schedule)
    best, apply = best_student(process, oracle), student_of(process)

    def off(variables, x, index, train=False):
        return apply(variables, x, index, train) + 1

    loss_fn = progressive_loss(process, off, teacher_of(oracle), STEPS, weighting=Simple())
    np.testing.assert_allclose(jax.jit(loss_fn)(best, KEYS, BATCH)[0], 1, rtol=1e-3)


@pytest.mark.parametrize("steps", [0, 501])
def test_steps_are_refused_that_a_schedule_does_not_have(steps):
    with pytest.raises(UserError, match="choose 1 to 500"):
        progressive_loss(PROCESSES[0], lambda *_: None, lambda _: None, steps)

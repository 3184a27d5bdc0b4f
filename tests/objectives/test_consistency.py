"""Consistency models of a Gaussian, whose paths are known: each ends where its quantile lies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracles import Gaussian

from diffjax.errors import UserError
from diffjax.objectives.consistency import consistency_loss, grid, pseudo_huber
from diffjax.process import Process
from diffjax.randomness import normal, sample_keys
from diffjax.samplers.base import Sampler, sample
from diffjax.samplers.consistency import Consistency
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.heun import Heun
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.time_laws.base import TimeLaw
from diffjax.time_laws.uniform import Uniform
from diffjax.typing import Prediction

SHAPE = (2, 3, 1)
KEYS = sample_keys(jax.random.key(0), 0, 256)
BATCH = {"image": 0.3 + 0.5 * normal(sample_keys(jax.random.key(1), 0, 256), SHAPE)}
PROCESSES = [
    Process(Cosine(), "v", consistent=True),
    Process(Linear(), "eps", consistent=True),
    Process(Flow(), "velocity", consistent=True),
    Process(EDM(), "edm", consistent=True),
]


def to_first(oracle, x, t):
    """Where the exact path through x at t lies at the first time, over alpha."""
    first = oracle.schedule.sigma_ve(jnp.asarray(1 / oracle.schedule.steps))
    spread = jnp.sqrt(oracle.std**2 + first**2) / oracle.std
    return oracle.mean + spread * (oracle.flow(x, t) - oracle.mean)


@dataclasses.dataclass(frozen=True)
class Exact(Sampler):
    """A solver that makes no error, of a Gaussian."""

    oracle: Gaussian

    @property
    def order(self):
        return 9

    def step(self, schedule, denoise, keys, x, memory, t, s):
        (alpha, sigma), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        mean, std = self.oracle.mean, self.oracle.std
        spread = jnp.sqrt((alpha_s**2 * std**2 + sigma_s**2) / (alpha**2 * std**2 + sigma**2))
        return alpha_s * mean + spread * (x - alpha * mean), memory


def student_of(process, intervals):
    """A network of two numbers a time: its x0 is linear in x / alpha."""
    times = jnp.asarray(grid(process.schedule, intervals))

    def apply(variables, x, index, train=False):
        t = (index + 1) / process.schedule.steps
        row = variables["params"][jnp.argmin(jnp.abs(t[:, None] - times), axis=1)]
        alpha, sigma, slope, offset = (
            c[:, None, None, None] for c in (*process.schedule.alpha_sigma(t), *row.T)
        )
        x0 = slope * x + offset
        return process.target_of(x0, (x - alpha * x0) / sigma, t)

    return apply


@pytest.mark.parametrize("solver", ["exact", "ddim"])
def test_distilled_by_descent_it_is_the_flow(solver):
    """Trained by the gradient alone, from a bad start, to the solver's own way down the grid."""
    process, intervals = PROCESSES[0], 4
    oracle = Gaussian(process.schedule)
    apply, times = student_of(process, intervals), jnp.asarray(grid(process.schedule, intervals))
    loss_fn = consistency_loss(
        process,
        apply,
        intervals,
        lambda cond: oracle.denoise,
        solver=Exact(oracle) if solver == "exact" else DDIM(),
        times=Uniform(),
        huber=1.0,
    )
    steps, tx = 800, optax.adam(optax.cosine_decay_schedule(0.03, 800))

    @jax.jit
    def train(params):
        def step(carry, i):
            params, state = carry
            keys = jax.vmap(jax.random.fold_in, (0, None))(KEYS, i)
            grads = jax.grad(lambda p: loss_fn(p, keys, BATCH)[0])(params)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))
        return params

    params = train(jnp.zeros((intervals + 1, 2)))
    x = normal(KEYS, SHAPE)
    found = process.denoiser(apply, params)(x, jnp.ones(())).x0
    if solver == "exact":
        wanted = to_first(oracle, x, 1.0)
    else:
        walked, _ = sample(DDIM(), process.schedule, oracle.denoise, KEYS, x, times[::-1])
        wanted = walked / process.schedule.alpha_sigma(times[0])[0]
    np.testing.assert_allclose(found, wanted, atol=5e-3)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
def test_boundary(process):
    """At the first time it is x / alpha whatever the network says; later the network counts."""
    t = jnp.asarray(1 / process.schedule.steps)
    x = normal(KEYS[:2], SHAPE)

    def says(number):
        return process.denoiser(lambda variables, x, index: jnp.full_like(x, number), {})

    alpha, _ = process.schedule.alpha_sigma(t)
    for number in (-3.0, 0.0, 5.0):
        np.testing.assert_allclose(says(number)(x, t).x0, x / alpha, rtol=1e-4, atol=1e-5)
        at_one = says(number)(x, jnp.ones(()))
        assert np.isfinite(at_one.x0).all()
        assert np.isfinite(at_one.eps).all()
    later = jnp.asarray(0.5)
    found = says(5.0)(x, later)
    alpha, sigma = process.schedule.alpha_sigma(later)
    np.testing.assert_allclose(alpha * found.x0 + sigma * found.eps, x, atol=1e-4)
    assert np.abs(found.x0 - says(-3.0)(x, later).x0).min() > 0.1


@dataclasses.dataclass(frozen=True)
class Always(TimeLaw):
    """One time."""

    time: float

    def draw(self, keys, schedule):
        return jnp.full(keys.shape, self.time), jnp.ones(keys.shape)


def exact_model(oracle):
    """The exact consistency function as a denoiser."""

    def denoise(x, t):
        x0 = to_first(oracle, x, t)
        alpha, sigma = oracle.schedule.alpha_sigma(t)
        return Prediction(x0, (x - alpha * x0) / sigma)

    return denoise


def saying(process, f):
    """A network that makes of a consistent process's x0 what f(x, t) is, but at the first time.

    What is to be wrapped for that: a consistent x0 is the network's and near times the noise.
    """
    plain = dataclasses.replace(process, consistent=False)

    def apply(variables, x, index, train=False):
        t = (index + 1) / process.schedule.steps
        alpha, sigma, first = (
            jnp.broadcast_to(c, t.shape)[:, None, None, None]
            for c in (
                *process.schedule.alpha_sigma(t),
                process.schedule.sigma_ve(jnp.asarray(1 / process.schedule.steps)),
            )
        )
        x = x / process.model_input(jnp.ones_like(x), t)
        near = first / sigma
        x0 = (jax.vmap(f)(x, t) - near * x) / jnp.maximum(1 - near * alpha, 1e-6)
        return plain.target_of(x0, (x - alpha * x0) / sigma, t)

    return apply


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
def test_the_weight_is_one_over_the_gap_in_sigma(process):
    """Song & Dhariwal (2024, eq. 8), where f says the time itself, from any image."""
    apply = saying(process, lambda x, t: jnp.full_like(x, 3 * t))
    points, c, d = grid(process.schedule, 3), 0.1, np.prod(SHAPE)
    sigma = np.asarray(process.schedule.sigma_ve(jnp.asarray(points)), float)
    for upper in (2, 3):
        loss_fn = consistency_loss(process, apply, 3, times=Always(points[upper]), huber=c)
        gap = 3 * (points[upper] - points[upper - 1])
        wanted = (np.sqrt(d * gap**2 + c**2 * d) - c * np.sqrt(d)) / (
            sigma[upper] - sigma[upper - 1]
        )
        np.testing.assert_allclose(loss_fn({}, KEYS, BATCH)[0], wanted, rtol=1e-3)


@pytest.mark.parametrize("process", PROCESSES[1::2], ids=lambda p: type(p.schedule).__name__)
def test_the_exact_model_is_consistent(process):
    """Where f is the flow's own, and the solver exact, nothing is left of the loss."""
    oracle = Gaussian(process.schedule)

    def loss_of(wrong):
        apply = saying(process, lambda x, t: to_first(oracle, x, t) + wrong)
        loss_fn = consistency_loss(
            process, apply, 20, lambda cond: oracle.denoise, solver=Exact(oracle), times=Uniform()
        )
        return float(jax.jit(loss_fn)({}, KEYS, BATCH)[0])

    # f is x / alpha at the first time alone, so what is wrong there is not seen.
    assert loss_of(0.0) < 2e-4
    assert loss_of(0.5) > 0.01


def test_training_learns_as_distillation_does():
    """Their gradients have one mean, with the grid's width (Song et al. 2023, theorem 2).

    In x_s of one x0 and eps lies the noise that the teacher's mean has not. Of a student that is
    not linear, something is left that shrinks with the intervals faster than the gradient.
    """
    process = PROCESSES[0]
    oracle = Gaussian(process.schedule)
    keys = sample_keys(jax.random.key(3), 0, 20_000)
    batch = {"image": oracle.mean + oracle.std * normal(sample_keys(keys[0], 0, 20_000), (1, 1, 1))}

    def apply(variables, x, index, train=False):
        return variables["params"][0] * x + variables["params"][1] * jnp.tanh(3 * x)

    def gap(intervals):
        def gradient(teacher):
            loss_fn = consistency_loss(
                process, apply, intervals, teacher, times=Uniform(), huber=10.0
            )
            return jax.jit(jax.grad(lambda p: loss_fn(p, keys, batch)[0]))(jnp.asarray([0.5, 0.5]))

        trained, distilled = gradient(None), gradient(lambda cond: oracle.denoise)
        return float(jnp.linalg.norm(trained - distilled) / jnp.linalg.norm(distilled))

    gaps = [gap(4), gap(32)]
    assert gaps[1] < 0.02, gaps
    assert gaps[1] < gaps[0] / 3, gaps


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p.schedule).__name__)
def test_sampler_on_the_exact_model(process):
    """One step is the flow to the first time; of several, every one ends in the data."""
    oracle = Gaussian(process.schedule)
    keys = sample_keys(jax.random.key(4), 0, 4000)
    x = process.schedule.alpha_sigma(jnp.ones(()))[1] * normal(keys, SHAPE)
    walk = jax.jit(
        lambda x, times: sample(
            Consistency(), process.schedule, exact_model(oracle), keys, x, times
        )[0]
    )
    one = walk(x, jnp.asarray([1.0, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(one, to_first(oracle, x, 1.0), atol=1e-5)
    three = walk(x, jnp.asarray([1.0, 0.6, 0.2, 0.0]))
    assert abs(np.corrcoef(one.ravel(), three.ravel())[0, 1]) < 0.9  # it has drawn noise
    for images in (one, three):
        error = oracle.std / np.sqrt(images.size)
        assert abs(float(images.mean()) - oracle.mean) < 5 * error
        assert abs(float(images.std()) - oracle.std) < 5 * error


def test_pseudo_huber_is_a_distance_far_off_and_a_square_near():
    far, near = jnp.full((1, *SHAPE), 100.0), jnp.full((1, *SHAPE), 1e-3)
    d = np.prod(SHAPE)
    np.testing.assert_allclose(
        pseudo_huber(far, 0.1), 100 * np.sqrt(d) - 0.1 * np.sqrt(d), rtol=1e-5
    )
    np.testing.assert_allclose(pseudo_huber(near, 1.0), d * 1e-6 / (2 * np.sqrt(d)), rtol=0.1)
    slope = jax.grad(lambda gap: pseudo_huber(gap, 0.1).sum())(jnp.zeros((1, *SHAPE)))
    np.testing.assert_array_equal(slope, 0)


def test_refusals():
    def loss(process, intervals, **options):
        return consistency_loss(process, lambda *_: None, intervals, **options)

    with pytest.raises(UserError, match="needs a consistent process"):
        loss(Process(Cosine(), "v"), 8)
    with pytest.raises(UserError, match="draws noise"):
        loss(PROCESSES[0], 8, solver=DDIM(eta=1.0))
    with pytest.raises(UserError, match="solver Heun errs on the even times"):
        loss(PROCESSES[0], 8, solver=Heun())
    for intervals in (0, 1000):
        with pytest.raises(UserError, match="choose 1 to 999"):
            loss(PROCESSES[0], intervals)
    with pytest.raises(UserError, match=r"consistency models alone.*choose ddim"):
        Consistency().check(Process(Cosine(), "v"))
    Consistency().check(PROCESSES[0])

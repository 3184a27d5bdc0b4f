"""Every sampler on a Gaussian and a mixture, whose denoisers and reverse processes are known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from oracles import Gaussian, Mixture

import diffjax.samplers
from diffjax import spec
from diffjax.errors import UserError
from diffjax.process import Averaged, Process
from diffjax.randomness import normal, sample_keys
from diffjax.samplers.base import Sampler, sample
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.ddpm import DDPM
from diffjax.samplers.flow_map import FlowMap
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.variance_exploding import VarianceExploding
from diffjax.typing import Prediction

NAMES = spec.names(diffjax.samplers)
EVERY = [spec.build(name, diffjax.samplers) for name in NAMES]
DETERMINISTIC = [s for s in EVERY if s.order] + [
    spec.build(text, diffjax.samplers)
    for text in (
        "lms(order=2)",
        "lms(order=3)",
        "deis(order=1)",
        "deis(order=2)",
        "unipc(p=1)",
        "unipc(p=3)",
        "edm(s_churn=0.0)",
        "unipc(p=1, b=1)",
        "dpmpp_2m_sde(eta=0.0, solver='heun')",
        "dpmpp_3m_sde(eta=0.0)",
    )
]
SCHEDULES = [Cosine(), Linear(), Flow(), EDM(), VarianceExploding()]


def serves(sampler, schedule):
    """Whether the sampler takes an ordinary network on that schedule."""
    try:
        sampler.check(Process(schedule, "x0"))
    except UserError:
        return False
    return True


def seen_by(sampler, denoise):
    """The denoiser as the sampler takes it: flow_map's is told where a step leads."""
    return Averaged(lambda s: denoise) if isinstance(sampler, FlowMap) else denoise


STOCHASTIC = [s for s in EVERY if s.order == 0 and serves(s, Linear())]
STOCHASTIC += [DDPM("large"), DDIM(eta=1.0), DDIM(eta=0.5)]
SHAPE = (4, 4, 1)
SMALL = (2, 2, 1)


def times_of(sampler, schedule, steps, most=None):
    times = sampler.spacing.times(schedule, steps)
    return jnp.asarray(np.pad(times, (0, (most or steps) - steps)))


def noise(schedule, keys, time, shape=SHAPE):
    """What a walk begins with: unit noise on the schedule's scale."""
    return schedule.alpha_sigma(time)[1] * normal(keys, shape)


def walk(sampler, schedule, steps, count=2, seed=0, oracle=Gaussian, shape=SHAPE, **options):
    keys = sample_keys(jax.random.key(seed), 0, count)
    times = times_of(sampler, schedule, steps)
    x = noise(schedule, keys, times[0], shape)
    denoise = seen_by(sampler, oracle(schedule).denoise)
    out, film = jax.jit(
        lambda keys, x, times: sample(sampler, schedule, denoise, keys, x, times, **options)
    )(keys, x, times)
    return x, out, film


@pytest.mark.parametrize("sampler", EVERY, ids=NAMES)
def test_contract(sampler):
    assert isinstance(sampler, Sampler)
    assert spec.build(spec.render(sampler), diffjax.samplers) == sampler
    _, out, film = walk(sampler, Linear(), 5, frames=3, watched=1)
    chex.assert_shape(out, (2, *SHAPE))
    chex.assert_shape(film, (3, 1, *SHAPE))
    chex.assert_tree_all_finite((out, film))
    np.testing.assert_array_equal(film[-1, 0], out[0])


def exact_flow(oracle, x, t, s):
    """Where the probability-flow ODE takes x from t to s: SciPy's order 8 in float64."""

    @jax.jit
    def velocity(x, t):
        x0, eps, _ = oracle.denoise(x, t)
        _, (alpha, sigma) = jax.jvp(oracle.schedule.alpha_sigma, (t,), (jnp.ones_like(t),))
        return alpha * x0 + sigma * eps

    def slope(t, flat):
        return np.asarray(velocity(jnp.asarray(flat.reshape(x.shape)), jnp.asarray(t))).ravel()

    flat = np.asarray(x).ravel()
    solved = scipy.integrate.solve_ivp(slope, (t, s), flat, "DOP853", rtol=1e-11, atol=1e-12)
    return solved.y[:, -1].reshape(x.shape)


@pytest.fixture(scope="module", params=["gaussian", "mixture"])
def exact(request):
    """An oracle, some x at time 3/4 in float64, and where they go by time 1/4."""
    cases = {"gaussian": Gaussian(VarianceExploding()), "mixture": Mixture(Flow())}
    oracle = cases[request.param]
    with jax.enable_x64(True):
        noise = jax.random.normal(jax.random.key(1), (8, *SMALL), jnp.float64)
        x = oracle.schedule.alpha_sigma(jnp.asarray(0.75))[1] * noise
        return oracle, x, exact_flow(oracle, x, 0.75, 0.25)


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=spec.render)
def test_measured_order_is_the_declared(sampler, exact):
    """The error against the exact flow shrinks with the step size to the power `order`.

    Away from the ends: in log-SNR the last step is infinitely long, a cosine's first nearly so. A
    multistep method's first step knows one prediction alone, so that its error is of order 2: the
    steps grow from a short one, that the order of the method and not of its start is seen.
    """
    oracle, x, truth = exact
    keys, errors, steps = sample_keys(jax.random.key(0), 0, 8), [], (256, 512)
    with jax.enable_x64(True):
        run = jax.jit(
            lambda x, times: sample(
                sampler, oracle.schedule, seen_by(sampler, oracle.denoise), keys, x, times
            )[0]
        )
        for n in steps:
            way = np.minimum(np.arange(max(steps) + 1) / n, 1)
            out = run(x, jnp.asarray(0.75 - 0.5 * way**2))
            errors.append(np.sqrt(np.mean((np.asarray(out) - truth) ** 2)))
    slope = np.log2(errors[0] / errors[1])
    assert abs(slope - sampler.order) < 0.15, f"order {slope:.2f}, errors {errors}"


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [(s, schedule) for s in EVERY for schedule in SCHEDULES if serves(s, schedule)],
    ids=spec.render,
)
def test_every_sampler_walks_every_schedule(sampler, schedule):
    """From the noise of its own first time to t = 0 exactly; solvers end where the flow does."""
    x, out, _ = walk(sampler, schedule, 40, shape=SMALL)
    chex.assert_tree_all_finite(out)
    if sampler.order:
        truth = Gaussian(schedule).flow(x, sampler.spacing.times(schedule, 40)[0])
        error = float(jnp.sqrt(jnp.mean((out - truth) ** 2)))
        assert error < (0.05 if sampler.order == 1 else 0.02), error


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=spec.render)
def test_stochastic_samplers_reach_the_data(sampler):
    _, out, _ = walk(sampler, Linear(), 250, count=2000)
    error = 0.5 / np.sqrt(out.size)  # one standard error of the mean
    # A quarter of a thousand steps leaves some discretisation error beside the sampling error.
    assert abs(float(out.mean()) - 0.3) < 5 * error + 0.002
    assert abs(float(out.std()) - 0.5) < 5 * error + 0.01


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=spec.render)
def test_stochastic_samplers_reach_the_mixture(sampler):
    """Its mean and covariance, which weights, means and deviations give in closed form."""
    count, oracle = 4000, Mixture(Linear())
    _, out, _ = walk(sampler, Linear(), 250, count=count, oracle=Mixture, shape=SMALL)
    weights, stds = np.asarray(oracle.weights), np.asarray(oracle.stds)
    centres = np.asarray(oracle.centres(SMALL)).reshape(3, -1)
    mean = weights @ centres
    covariance = np.diag(np.full(4, weights @ stds**2)) + (weights[:, None] * centres).T @ centres
    covariance -= np.outer(mean, mean)
    flat = np.asarray(out).reshape(count, -1)
    error = np.sqrt(covariance[0, 0] / count)
    np.testing.assert_allclose(flat.mean(0), mean, atol=5 * error)
    np.testing.assert_allclose(np.cov(flat.T), covariance, atol=5 * error * 0.6 + 0.005)


@pytest.mark.parametrize("sampler", [s for s in EVERY if s.order], ids=spec.render)
def test_one_step_of_any_solver_is_the_predicted_image(sampler):
    """From noise straight to t = 0 there is nothing to correct with."""
    x, out, _ = walk(sampler, Linear(), 1)
    time = times_of(sampler, Linear(), 1)[0]
    np.testing.assert_allclose(out, Gaussian(Linear()).denoise(x, time).x0, atol=1e-4)


@pytest.mark.parametrize("sampler", EVERY, ids=NAMES)
def test_one_compilation_serves_every_seed_and_number_of_steps(sampler):
    """Times filled up with zeros give what they alone give, for as many calls as `nfe` says."""
    most, calls, traced = 7, [], []

    def denoise(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return Gaussian(Cosine()).denoise(x, t)

    @jax.jit
    def run(keys, x, times):
        traced.append(1)
        return sample(sampler, Cosine(), seen_by(sampler, denoise), keys, x, times)[0]

    for steps, seed in ((1, 0), (2, 0), (5, 0), (5, 1), (most, 0)):
        keys = sample_keys(jax.random.key(seed), 0, 2)
        times = times_of(sampler, Cosine(), steps, most)
        calls.clear()
        out = run(keys, noise(Cosine(), keys, times[0]), times)
        jax.effects_barrier()
        assert len(calls) == sampler.nfe(steps), steps
        assert min(calls) > 0  # at t = 0 there is no noise to tell
        if (steps, seed) == (5, 1):
            alone = walk(sampler, Cosine(), steps, seed=seed)[1]
            np.testing.assert_allclose(out, alone, atol=1e-6)
    assert len(traced) == 1


def test_a_film_of_fewer_steps_than_frames_fills_the_last_ones():
    sampler, steps, most, frames = DDIM(), 3, 8, 6
    keys = sample_keys(jax.random.key(0), 0, 2)
    times = times_of(sampler, Linear(), steps, most)
    x, denoise = noise(Linear(), keys, times[0]), Gaussian(Linear()).denoise
    _, film = sample(sampler, Linear(), denoise, keys, x, times, frames=frames, watched=2)
    assert not film[: frames - steps].any()
    for taken in (1, 2, 3):
        moment, _ = sample(sampler, Linear(), denoise, keys, x, times[: taken + 1])
        np.testing.assert_allclose(film[frames - steps + taken - 1], moment, atol=1e-6)


def churned(sampler, schedule, keys, x, t, s):
    """What a step first asks the denoiser about, and the x that the step gives."""

    @jax.jit
    def step(keys, x, t, s):
        seen = []

        def denoise(x, t):
            seen.append((x, t))
            return Gaussian(schedule).denoise(x, t)

        out, _ = sampler.step(schedule, denoise, keys, x, (), t, s)
        return *seen[0], out

    return step(keys, x, t, s)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=spec.render)
def test_churn_raises_the_noise_as_the_paper_says(schedule):
    """Karras et al. 2022, algorithm 2, lines 4 to 6: on their spacing gamma is s_churn / N."""
    steps, sampler = 20, spec.build("edm(s_churn=4.0,s_max=40.0,s_noise=1.1)", diffjax.samplers)
    times = times_of(sampler, schedule, steps)
    keys, zero = sample_keys(jax.random.key(0), 0, 5000), jnp.zeros((5000, 1, 1, 1))
    for i in (0, 9, 19):  # above s_max, between, below s_min and on the way to t = 0
        x, raised, _ = churned(sampler, schedule, keys, zero, times[i], times[i + 1])
        before, after = (float(schedule.sigma_ve(t)) for t in (times[i], raised))
        gamma = 4 / steps if 0.05 <= before <= 40 else 0.0
        # Near t = 1 a cosine's noise changes by 1e-4 of itself in the last digit of a float32 time,
        # and EDM's schedule has after its first step 2.5% more than it begins with.
        assert after / before == pytest.approx(1 + gamma, rel=2e-3)
        std = 1.1 * float(schedule.alpha_sigma(raised)[0]) * np.sqrt(max(after**2 - before**2, 0))
        assert float(x.std()) == pytest.approx(std, rel=0.05, abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=spec.render)
def test_churn_adds_no_more_noise_than_the_schedule_has(schedule):
    """At t = 1, where a flow's alpha is 0, no time has more; a little before, t = 1 is the most."""
    sampler = spec.build("edm(s_churn=1000.0,s_max=1e30)", diffjax.samplers)
    keys = sample_keys(jax.random.key(0), 0, 2)
    for t in (1.0, 0.999):
        time = jnp.asarray(t, jnp.float32)
        x = noise(schedule, keys, time)
        _, raised, out = churned(sampler, schedule, keys, x, time, jnp.asarray(0.5))
        assert time <= raised <= 1
        chex.assert_tree_all_finite(out)


@pytest.mark.parametrize("name", ["deis", "dpmpp_2m_sde", "dpmpp_3m_sde"])
@pytest.mark.parametrize("steps", [4, 15])
def test_the_last_of_few_steps_is_of_order_one(name, steps):
    """It is Euler's then, whatever the denoiser said before: of many steps it is not."""
    eta = "eta=0.0, " * name.startswith("dpmpp")
    sampler = spec.build(f"{name}({eta}lower_final=True)", diffjax.samplers)
    schedule, keys = Linear(), sample_keys(jax.random.key(0), 0, 2)
    times = jnp.linspace(0.8, 0.2, steps + 1)

    def denoise(x, t):
        x0 = jnp.where(t > times[-2] + 1e-3, -3.0, 0.5) * jnp.ones_like(x)
        alpha, sigma = schedule.alpha_sigma(t)
        return Prediction(x0, (x - alpha * x0) / sigma)

    @jax.jit
    def walk(x, times):
        return sample(sampler, schedule, denoise, keys, x, times, frames=steps, watched=2)

    out, film = walk(normal(keys, SMALL), times)
    euler, _ = DDIM().step(schedule, denoise, keys, film[-2], (), times[-2], times[-1])
    assert (float(jnp.abs(out - euler).max()) < 1e-5) == (steps < 15)


def test_ddim_with_eta_1_is_ddpm():
    """Song et al. 2021, section 4.2: the same mean and the same variance, so the same draws."""
    for steps in (3, 50, 1000):
        ddim, ddpm = (walk(s, Linear(), steps)[1] for s in (DDIM(eta=1.0), DDPM("small")))
        np.testing.assert_allclose(ddim, ddpm, atol=2e-4)


def test_one_ddpm_step_by_hand():
    """Ho et al. 2020, algorithm 2, line 4, from betas in float64."""
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - betas)
    index = 700
    schedule = Linear()
    keys = sample_keys(jax.random.key(3), 0, 2)
    x, noise = np.asarray(normal(keys, SHAPE)) * 0.7, np.asarray(normal(keys, SHAPE))
    t, s = (jnp.asarray(i / 1000, jnp.float32) for i in (index + 1, index))
    eps = np.asarray(Gaussian(schedule).denoise(jnp.asarray(x), t).eps, np.float64)
    mean = (x - betas[index] / np.sqrt(1 - alpha_bar[index]) * eps) / np.sqrt(1 - betas[index])
    for variance, size in (
        ("large", betas[index]),
        ("small", betas[index] * (1 - alpha_bar[index - 1]) / (1 - alpha_bar[index])),
    ):
        out, _ = DDPM(variance).step(
            schedule, Gaussian(schedule).denoise, keys, jnp.asarray(x), (), t, s
        )
        np.testing.assert_allclose(out, mean + np.sqrt(size) * noise, atol=1e-5)


@pytest.mark.parametrize("sampler", EVERY, ids=NAMES)
def test_an_image_does_not_depend_on_its_batch(sampler):
    _, whole, _ = walk(sampler, Linear(), 10, count=6)
    keys, times = sample_keys(jax.random.key(0), 4, 2), times_of(sampler, Linear(), 10)
    x, denoise = noise(Linear(), keys, times[0]), seen_by(sampler, Gaussian(Linear()).denoise)
    part, _ = sample(sampler, Linear(), denoise, keys, x, times)
    np.testing.assert_allclose(part, whole[4:], atol=1e-6)


@pytest.mark.parametrize("sampler", EVERY, ids=NAMES)
def test_the_reverse_process_is_one_scan(sampler):
    """However many steps, the program holds one loop and one copy of the step."""

    def reverse(keys, x, times):
        return sample(
            sampler, Linear(), seen_by(sampler, Gaussian(Linear()).denoise), keys, x, times
        )

    keys = sample_keys(jax.random.key(0), 0, 2)
    programs = [
        jax.make_jaxpr(reverse)(keys, normal(keys, SHAPE), times_of(sampler, Linear(), n))
        for n in (2, 500)
    ]
    assert [str(p).count("scan[") for p in programs] == [1, 1]
    assert len(str(programs[0])) - len(str(programs[1])) < 50


def test_refusals():
    with pytest.raises(UserError, match="eta"):
        spec.build("ddim(eta=2)", diffjax.samplers)
    with pytest.raises(UserError, match="0 is euler"):
        spec.build("euler_ancestral(eta=0.0)", diffjax.samplers)
    with pytest.raises(UserError, match="eta=-1"):
        spec.build("dpmpp_2m_sde(eta=-1.0)", diffjax.samplers)
    with pytest.raises(UserError, match="eta=-1"):
        spec.build("dpmpp_3m_sde(eta=-1.0)", diffjax.samplers)
    for text in ("lms(order=5)", "lms(order=0)", "deis(order=4)", "unipc(p=4)", "unipc(p=0)"):
        with pytest.raises(UserError, match="choose"):
            spec.build(text, diffjax.samplers)
    for option in ("s_churn=-1.0", "s_min=60.0", "s_noise=0.0", "s_min=-0.1"):
        with pytest.raises(UserError, match="s_min <= s_max"):
            spec.build(f"edm({option})", diffjax.samplers)
    with pytest.raises(UserError, match="did you mean 'ddim'"):
        spec.build("ddin", diffjax.samplers)
    with pytest.raises(UserError, match=r"small.*large"):
        spec.build("ddpm(variance='medium')", diffjax.samplers)

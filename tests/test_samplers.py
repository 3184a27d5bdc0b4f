"""Every sampler on a Gaussian, whose denoiser and reverse process are known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

import diffjax.samplers
from diffjax import spec
from diffjax.errors import UserError
from diffjax.randomness import normal, sample_keys
from diffjax.samplers.base import Sampler, sample
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.ddpm import DDPM
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.linear import Linear
from diffjax.spacings.trailing import Trailing

NAMES = spec.names(diffjax.samplers)
EVERY = [spec.build(name, diffjax.samplers) for name in NAMES]
STOCHASTIC = [s for s in EVERY if s.order == 0] + [DDPM("large"), DDIM(eta=1.0), DDIM(eta=0.5)]
SHAPE = (4, 4, 1)


def even(steps):
    return jnp.asarray(Trailing().times(Linear(), steps))


def walk(sampler, schedule, steps, count=2, seed=0, **options):
    keys = sample_keys(jax.random.key(seed), 0, count)
    x = normal(keys, SHAPE)
    oracle = Gaussian(schedule)
    out, film = jax.jit(
        lambda keys, x, times: sample(sampler, schedule, oracle.denoise, keys, x, times, **options)
    )(keys, x, even(steps))
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


@pytest.mark.parametrize(
    "sampler",
    [s for s in EVERY if s.order],
    ids=[n for n, s in zip(NAMES, EVERY, strict=True) if s.order],
)
def test_measured_order_is_the_declared(sampler):
    """The error against the exact flow shrinks with the step size to the power `order`.

    Away from the ends: in log-SNR the last step is infinitely long, a cosine's first nearly so.
    """
    schedule, errors, steps = Cosine(), [], np.array([32, 64, 128])
    oracle = Gaussian(schedule)
    keys = sample_keys(jax.random.key(0), 0, 2)
    x = normal(keys, SHAPE)
    for n in steps:
        times = jnp.linspace(0.9, 0.1, n + 1)
        out, _ = jax.jit(
            lambda x, times: sample(sampler, schedule, oracle.denoise, keys, x, times)
        )(x, times)
        gap = oracle.flow(out, times[-1]) - oracle.flow(x, times[0])
        errors.append(float(jnp.sqrt(jnp.mean(gap**2))))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope - sampler.order) < 0.15, f"order {slope:.2f}, errors {errors}"


@pytest.mark.parametrize("sampler", STOCHASTIC, ids=spec.render)
def test_stochastic_samplers_reach_the_data(sampler):
    _, out, _ = walk(sampler, Linear(), 250, count=2000)
    error = 0.5 / np.sqrt(out.size)  # one standard error of the mean
    # A quarter of a thousand steps leaves some discretisation error beside the sampling error.
    assert abs(float(out.mean()) - 0.3) < 5 * error + 0.002
    assert abs(float(out.std()) - 0.5) < 5 * error + 0.01


@pytest.mark.parametrize("sampler", [s for s in EVERY if s.order], ids=spec.render)
def test_one_step_of_any_solver_is_the_predicted_image(sampler):
    """From noise straight to t = 0 there is nothing to correct with."""
    x, out, _ = walk(sampler, Linear(), 1)
    x0 = Gaussian(Linear()).denoise(x, jnp.ones(())).x0
    np.testing.assert_allclose(out, x0, atol=1e-4)


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
    oracle = Gaussian(Linear())
    keys = sample_keys(jax.random.key(0), 4, 2)
    part, _ = sample(sampler, Linear(), oracle.denoise, keys, normal(keys, SHAPE), even(10))
    np.testing.assert_allclose(part, whole[4:], atol=1e-6)


@pytest.mark.parametrize("sampler", EVERY, ids=NAMES)
def test_the_reverse_process_is_one_scan(sampler):
    """However many steps, the program holds one loop and one copy of the step."""

    def reverse(keys, x, times):
        return sample(sampler, Linear(), Gaussian(Linear()).denoise, keys, x, times)

    keys = sample_keys(jax.random.key(0), 0, 2)
    programs = [jax.make_jaxpr(reverse)(keys, normal(keys, SHAPE), even(n)) for n in (2, 500)]
    assert [str(p).count("scan[") for p in programs] == [1, 1]
    assert len(str(programs[0])) - len(str(programs[1])) < 50


def test_refusals():
    with pytest.raises(UserError, match="eta"):
        spec.build("ddim(eta=2)", diffjax.samplers)
    with pytest.raises(UserError, match="0 is euler"):
        spec.build("euler_ancestral(eta=0.0)", diffjax.samplers)
    with pytest.raises(UserError, match="eta=-1"):
        spec.build("dpmpp_2m_sde(eta=-1.0)", diffjax.samplers)
    with pytest.raises(UserError, match="did you mean 'ddim'"):
        spec.build("ddin", diffjax.samplers)
    with pytest.raises(UserError, match=r"small.*large"):
        spec.build("ddpm(variance='medium')", diffjax.samplers)

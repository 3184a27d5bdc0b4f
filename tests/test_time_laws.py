"""Laws of times against distributions of SciPy, and what all of them must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import linear_betas

import diffjax.time_laws
from diffjax import spec
from diffjax.errors import UserError
from diffjax.randomness import sample_keys
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.time_laws.grid import Grid
from diffjax.time_laws.importance import Importance
from diffjax.time_laws.log_normal import LogNormal
from diffjax.time_laws.logit_normal import LogitNormal
from diffjax.time_laws.uniform import Uniform

NAMES = spec.names(diffjax.time_laws)
EVERY = [spec.build(name, diffjax.time_laws) for name in NAMES]
KEYS = sample_keys(jax.random.key(0), 0, 20_000)
every = pytest.mark.parametrize("law", EVERY, ids=NAMES)


@every
def test_contract(law):
    assert spec.build(spec.render(law), diffjax.time_laws) == law
    t, importance = law.draw(KEYS, Cosine())
    assert t.shape == importance.shape == (20_000,)
    assert float(t.min()) > 0
    assert float(t.max()) <= 1
    assert bool(jnp.all(importance > 0))
    part = law.draw(KEYS[7:9], Cosine())
    np.testing.assert_array_equal(part, (t[7:9], importance[7:9]))


@every
def test_a_fair_law_weighs_all_times_alike(law):
    """The mean of importance * f(t) is that of f, within five standard errors."""
    for f, mean in ((jnp.ones_like, 1.0), (jnp.sin, 1 - np.cos(1)), (lambda t: t**8, 1 / 9)):
        t, importance = law.draw(KEYS, Linear())
        values = importance * f(t)
        error = float(values.std()) / np.sqrt(len(t)) + 1e-3 * law.on_grid
        fair = abs(float(values.mean()) - mean) < 5 * error + 1e-6
        assert fair or not law.fair
    assert fair == law.fair, "t**8, which a law that is not fair is not to meet by chance"


def test_grid_has_all_of_ddpms_times():
    t, _ = Grid().draw(KEYS, Linear(steps=5))
    counts = [int((t == np.float32(i / 5)).sum()) for i in range(1, 6)]
    assert sum(counts) == len(t)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


def test_uniform():
    t, _ = Uniform().draw(KEYS, Linear())
    assert scipy.stats.kstest(np.asarray(t), "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4)])
def test_logit_normal(mean, std):
    t, _ = LogitNormal(mean, std).draw(KEYS, Flow())
    logit = scipy.special.logit(np.asarray(t, np.float64))
    assert scipy.stats.kstest(logit, scipy.stats.norm(mean, std).cdf).pvalue > 1e-4


@pytest.mark.parametrize("schedule", [EDM(), Flow(), Linear(steps=3000)], ids=spec.render)
def test_log_normal_is_of_sigma_whatever_the_schedule(schedule):
    law = LogNormal(mean=-0.5, std=0.7)
    t, _ = jax.jit(lambda keys: law.draw(keys, schedule))(KEYS)
    sigma = np.asarray(schedule.sigma_ve(t), np.float64)
    assert scipy.stats.kstest(np.log(sigma), scipy.stats.norm(-0.5, 0.7).cdf).pvalue > 1e-4


def test_log_normal_beyond_the_schedule_is_drawn_at_its_ends():
    t, _ = LogNormal(mean=20.0, std=1.0).draw(KEYS[:5], Linear())
    np.testing.assert_array_equal(t, 1)
    t, _ = LogNormal(mean=-20.0, std=1.0).draw(KEYS[:5], EDM())
    assert bool(jnp.all((t > 0) & (t < 1e-6)))


@pytest.mark.parametrize("schedule", [Cosine(steps=10), Flow(steps=10), EDM(steps=10)])
def test_importance_is_one_over_how_often_a_step_comes(schedule):
    law = Importance(even=0.3)
    t, importance = law.draw(KEYS, schedule)
    step = np.ceil(np.asarray(t) * 10 * (1 - 1e-6)).astype(int)
    counts = np.bincount(step, minlength=11)[1:]
    weights = np.asarray(importance, np.float64)
    shares = np.array([1 / (10 * weights[step == i][0]) for i in range(1, 11)])
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
    assert scipy.stats.chisquare(counts, shares / shares.sum() * len(t)).pvalue > 1e-4
    assert float(importance.max()) <= 1 / 0.3 + 1e-5
    # Within a step no time comes more often.
    within = np.asarray(t)[step == 2] * 10 - 1
    assert scipy.stats.kstest(within, "uniform").pvalue > 1e-4


def test_importance_follows_the_bound_of_unit_gaussian_data():
    """Their error in eps is alpha_bar, and alpha_bar d log_snr = -d log(1 - alpha_bar)."""
    noise = 1 - np.cumprod(1 - linear_betas())
    term = np.log(noise[1:] / noise[:-1])
    got = np.asarray(Importance(even=1e-6).shares(Linear()))[1:]
    np.testing.assert_allclose(got / got.sum(), term / term.sum(), rtol=1e-3, atol=1e-6)


def test_importance_of_a_single_step():
    t, importance = Importance().draw(KEYS[:5], Linear(steps=1))
    np.testing.assert_array_equal(importance, 1)
    assert bool(jnp.all((t > 0) & (t <= 1)))


@pytest.mark.parametrize("steps", [1, 7, 1000, 4096])
def test_times_are_moved_up_to_the_grid(steps):
    index = jnp.arange(1, steps + 1)
    schedule = Linear(steps=steps)

    class Given(Uniform):
        def draw(self, keys, schedule):
            t = jnp.concatenate([index / steps, (index - 0.3) / steps])
            return t, jnp.ones_like(t)

    t, _ = Given().draw_steps(sample_keys(jax.random.key(0), 0, 2 * steps), schedule)
    np.testing.assert_array_equal(t, jnp.concatenate([index / steps] * 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("logit_normal(std=0.0)", "std above 0"),
        ("log_normal(std=-1.0)", "std above 0"),
        ("importance(even=0.0)", "0 < even <= 1"),
        ("unifrom", "did you mean 'uniform'"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(UserError, match=message):
        spec.build(text, diffjax.time_laws)

"""The bounds as losses, against their exact values on a Gaussian in float64."""

import contextlib
import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.stats
from oracles import Gaussian

import diffjax.schedules
from diffjax import spec
from diffjax.errors import UserError
from diffjax.objectives.denoising import denoising_loss
from diffjax.objectives.variational import (
    continuous_vlb_loss,
    hybrid_loss,
    last_std,
    vlb_loss,
)
from diffjax.process import Process
from diffjax.randomness import fold_in, sample_keys
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.monotone import Monotone
from diffjax.time_laws.grid import Grid
from diffjax.time_laws.importance import Importance
from diffjax.time_laws.logit_normal import LogitNormal
from diffjax.typing import Prediction, Target

COUNT = 8192
KEYS = sample_keys(jax.random.key(0), 0, COUNT)
LEVELS = np.array([0, 90, 128, 166, 199, 255])
IMAGE = (LEVELS / 127.5 - 1).reshape(1, 2, 3, 1)
BATCH = {"image": jnp.broadcast_to(jnp.asarray(IMAGE, jnp.float32), (COUNT, 2, 3, 1))}
MEAN, STD = 0.3, 0.5
SHORT = Linear(steps=8, beta_start=0.01, beta_end=0.04)  # leaves signal for the prior's term


def exact(process, raw=None):
    """The best network for pixels of N(MEAN, STD²); `raw` is its second half, where it has one."""

    def apply(variables, x, index, *cond, train):
        bound = process.bind(variables["params"])
        t = (index + 1) / bound.schedule.steps
        x = x / bound.model_input(jnp.ones_like(x), t)
        prediction = Gaussian(bound.schedule, MEAN, STD).denoise(x, t)
        output = bound.target_of(prediction.x0, prediction.eps, t)
        return output if raw is None else jnp.concatenate([output, raw * jnp.ones_like(x)], -1)

    return apply


def draws(loss_fn, params=None):
    """The loss of each sample by itself."""
    one = jax.vmap(lambda key, image: loss_fn(params or {}, key[None], {"image": image[None]})[0])
    return np.asarray(jax.jit(one)(KEYS, BATCH["image"]), np.float64)


def check_mean(values, wanted):
    error = values.std() / np.sqrt(len(values))
    assert error < 0.05 * wanted, "or the test says little"
    assert abs(values.mean() - wanted) < 5 * error, (values.mean(), wanted, error)


def square_error(alpha, sigma):
    """E[(x0 - predicted x0)²] over the noise, of the images at hand, by pixel."""
    share = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    return ((IMAGE - MEAN) * (1 - share * alpha)) ** 2 + (share * sigma) ** 2


def level_nll(mean, std):
    """E[-log p(level)] where the mean is Gaussian, itself given by (value, deviation)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    means = mean[0] + mean[1] * nodes[:, None, None, None, None]
    upper = np.where(LEVELS == 255, np.inf, (LEVELS + 0.5) / 127.5 - 1).reshape(IMAGE.shape)
    lower = np.where(LEVELS == 0, -np.inf, (LEVELS - 0.5) / 127.5 - 1).reshape(IMAGE.shape)
    a, b = (lower - means) / std, (upper - means) / std
    turn = a > 0  # in the tail that is small
    p = np.where(
        turn,
        scipy.stats.norm.sf(a) - scipy.stats.norm.sf(b),
        scipy.stats.norm.cdf(b) - scipy.stats.norm.cdf(a),
    )
    nll = -np.log(p)
    return np.einsum("n,nbhwc->bhwc", weights / weights.sum(), nll)


def exact_vlb(betas, fraction=None):
    """Ho et al. 2020, eq. 5, with Nichol & Dhariwal's variances (eq. 15): nats a dimension."""
    alpha_bar = np.cumprod(1 - betas)
    before = np.append(1.0, alpha_bar[:-1])
    tilde = betas * (1 - before) / (1 - alpha_bar)
    total = alpha_bar[-1] / (1 - alpha_bar[-1]) * IMAGE**2 / 2
    for i in range(1, len(betas)):
        error = square_error(np.sqrt(alpha_bar[i]), np.sqrt(1 - alpha_bar[i]))
        gap = before[i] * (betas[i] / (1 - alpha_bar[i])) ** 2 * error
        v = 0.0 if fraction is None else fraction
        variance = np.exp(v * np.log(betas[i]) + (1 - v) * np.log(tilde[i]))
        total = total + (np.log(variance / tilde[i]) + (tilde[i] + gap) / variance - 1) / 2
    alpha, sigma = np.sqrt(alpha_bar[0]), np.sqrt(1 - alpha_bar[0])
    share = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    mean = MEAN + share * alpha * (IMAGE - MEAN)
    std = sigma / alpha
    if fraction is not None:  # from the second step's posterior's up to that
        std *= np.sqrt(tilde[1] / betas[0]) ** (1 - fraction)
    return float((total + level_nll((mean, share * sigma), std)).mean())


@pytest.mark.parametrize(("target", "fraction"), [("eps", None), ("v", 0.4), ("x0", 1.0)])
def test_vlb_of_the_exact_denoiser(target, fraction):
    process = Process(SHORT, target, learned_variance=fraction is not None)
    raw = None if fraction is None else 2 * fraction - 1
    values = draws(vlb_loss(process, exact(process, raw), times=Importance()))
    check_mean(values, exact_vlb(np.linspace(0.01, 0.04, 8), fraction))


@pytest.mark.parametrize("fraction", [None, 0.0, 0.4, 1.0])
def test_the_last_steps_deviation(fraction):
    """Between sigma / alpha and, on the way to fraction 0, the second step's beta_tilde."""
    betas = np.linspace(0.01, 0.04, 8)
    noise = 1 - np.cumprod(1 - betas)
    tilde = betas[1] * noise[0] / noise[1]
    large, share = noise[0], 1.0 if fraction is None else fraction
    wanted = np.sqrt(large**share * tilde ** (1 - share) / (1 - noise[0]))
    image = BATCH["image"][:2]
    said = None if fraction is None else jnp.full_like(image, fraction)
    got = last_std(SHORT, Prediction(image, image, said), jnp.full(2, 1 / 8))
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


def test_importance_is_unbiased_and_less_noisy():
    """The ratio of the variances is measured at about 130."""
    process = Process(Linear())
    values = {
        law: draws(vlb_loss(process, exact(process), times=law)) for law in (Grid(), Importance())
    }
    check_mean(values[Importance()], exact_vlb(np.linspace(1e-4, 0.02, 1000)))
    error = values[Grid()].std() / np.sqrt(COUNT)
    assert abs(values[Grid()].mean() - values[Importance()].mean()) < 5 * error
    assert values[Grid()].var() > 20 * values[Importance()].var()


def exact_continuous(schedule):
    """Half the integral of E|eps - predicted|² over log-SNR from t = 1 to 1/T, and the ends."""

    def coefficients(log_snr):
        snr = np.exp(log_snr)
        if isinstance(schedule, EDM):
            return 1.0, 1 / np.sqrt(snr)
        if isinstance(schedule, Flow):
            return np.sqrt(snr) / (1 + np.sqrt(snr)), 1 / (1 + np.sqrt(snr))
        return np.sqrt(snr / (1 + snr)), 1 / np.sqrt(1 + snr)

    def integrand(log_snr):
        return np.exp(log_snr) * square_error(*coefficients(log_snr)).mean() / 2

    first, last = (
        float(schedule.log_snr(jnp.asarray(t, jnp.float32))) for t in (1 / schedule.steps, 1.0)
    )
    diffusion, _ = scipy.integrate.quad(integrand, max(last, -35), first, limit=200)
    prior = np.exp(last) * (IMAGE**2).mean() / 2
    std = np.exp(-first / 2)
    return prior + diffusion + level_nll((IMAGE, std), std).mean()


@pytest.mark.parametrize(
    ("schedule", "target"),
    [
        (Flow(steps=100), "velocity"),
        (EDM(steps=100), "edm"),
    ],
    ids=lambda part: part if isinstance(part, str) else spec.render(part),
)
def test_continuous_bound_of_the_exact_denoiser(schedule, target):
    process = Process(schedule, target)
    values = draws(continuous_vlb_loss(process, exact(process), times=Importance()))
    check_mean(values, exact_continuous(schedule))


def test_a_learnt_schedule_trains_on_the_continuous_bound():
    """The gradient of its ends is the exact bound's."""
    schedule = Monotone(steps=100, log_snr_min=-2.0, log_snr_max=6.0, width=4)
    process = Process(schedule, "v")
    learnt = schedule.init(jax.random.key(0))
    loss_fn = continuous_vlb_loss(process, exact(process), times=Importance())

    def one(learnt, key, image):
        return loss_fn({"schedule": learnt}, key[None], {"image": image[None]})[0]

    each = jax.vmap(jax.value_and_grad(one), (None, 0, 0))
    values, grads = jax.jit(each)(learnt, KEYS, BATCH["image"])
    check_mean(np.asarray(values), exact_continuous(schedule.bind({"schedule": learnt})))
    for name in ("log_snr_max", "log_range"):
        low, high = (
            exact_continuous(schedule.bind({"schedule": {**learnt, name: learnt[name] + h}}))
            for h in (-0.05, 0.05)
        )
        wanted = (high - low) / 0.1
        error = np.asarray(grads[name]).std() / np.sqrt(COUNT)
        assert np.abs(np.asarray(grads[name]).mean() - wanted) < 5 * error, name
        if name == "log_snr_max":
            assert wanted > 10 * error, "or nothing is seen to be learnt"


def test_between_its_ends_a_schedule_learns_the_least_variance():
    """Kingma et al. (2021, section 5.2): the bound stays what it is, and is drawn more surely."""
    schedule = Monotone(steps=100, log_snr_min=-2.0, log_snr_max=6.0, width=8)
    process = Process(schedule, "v")
    loss_fn = continuous_vlb_loss(process, exact(process))
    start = schedule.init(jax.random.key(0))
    way = [name for name in start if name not in ("log_snr_max", "log_range")]
    tx = optax.adam(0.1)

    def one(learnt, key, image):
        return loss_fn({"schedule": learnt}, key[None], {"image": image[None]})[0]

    each = jax.jit(jax.vmap(one, (None, 0, 0)))

    def update(carry, step):
        learnt, state = carry
        keys = fold_in(KEYS[:256], step)
        batch = {"image": BATCH["image"][:256]}
        grads = jax.grad(lambda own: loss_fn({"schedule": own}, keys, batch)[0])(learnt)
        moves, state = tx.update({name: grads[name] for name in way}, state)
        own = {name: learnt[name] + moves[name] for name in way}
        return ({**learnt, **own}, state), None

    begin = start, tx.init({name: start[name] for name in way})
    (learnt, _), _ = jax.jit(lambda begin: jax.lax.scan(update, begin, jnp.arange(150)))(begin)
    before, after = (np.asarray(each(own, KEYS, BATCH["image"])) for own in (start, learnt))
    check_mean(after, exact_continuous(schedule.bind({"schedule": learnt})))
    assert after.var() < 0.6 * before.var()


def linear(variables, x, index, *cond, train):
    """A network of one parameter a half."""
    params = variables["params"]
    output = params["a"] * x
    return jnp.concatenate([output, params["b"] * x], -1) if "b" in params else output


def test_hybrid_teaches_the_mean_by_the_simple_loss_and_the_variance_by_the_bound():
    params = {"a": jnp.asarray(0.7), "b": jnp.asarray(-0.2)}
    plain, learned = (Process(Cosine(steps=20), learned_variance=v) for v in (False, True))
    batch, keys = {"image": BATCH["image"][:64]}, KEYS[:64]

    def grads(loss_fn, params):
        return jax.jit(jax.grad(lambda params: loss_fn(params, keys, batch)[0]))(params)

    hybrid = grads(hybrid_loss(learned, linear), params)
    simple = grads(denoising_loss(plain, linear), {"a": params["a"]})
    bound = grads(vlb_loss(learned, linear), params)
    np.testing.assert_allclose(hybrid["a"], simple["a"], rtol=1e-5)
    np.testing.assert_allclose(hybrid["b"], 1e-3 * bound["b"], rtol=1e-4)
    assert float(jnp.abs(bound["a"])) > 1e-3
    assert float(jnp.abs(bound["b"])) > 1e-3


def processes(every_target):
    """Every schedule with one target; of each kind one with every target."""
    for name in spec.names(diffjax.schedules):
        # Of four steps, so that both ends are among the times drawn.
        schedule = spec.build(name, diffjax.schedules, {"steps": 4, "width": 4})
        found = []
        for target in typing.get_args(Target):
            with contextlib.suppress(UserError):
                found.append(Process(schedule, target))
        yield from found if every_target and name in ("linear", "flow", "edm") else found[-1:]
    yield Process(Cosine(steps=4, zero_terminal_snr=True), "v")


LOSSES = {
    "denoising": (denoising_loss, False),
    "hybrid": (hybrid_loss, True),
    "vlb": (vlb_loss, False),
    "continuous_vlb": (continuous_vlb_loss, False),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_is_finite_whatever_is_legal(loss):
    build, learned = LOSSES[loss]
    params = {"a": jnp.asarray(0.3)} | ({"b": jnp.asarray(0.1)} if learned else {})
    batch, keys = {"image": BATCH["image"][:16]}, KEYS[:16]
    tried = set()
    for process in processes(every_target=loss == "denoising"):
        learnt = process.schedule.init(jax.random.key(0))
        if learnt is not None and loss != "continuous_vlb":
            continue
        loss_fn = build(dataclasses.replace(process, learned_variance=learned), linear)
        own = params if learnt is None else {**params, "schedule": learnt}
        value, grads = jax.value_and_grad(lambda p, f=loss_fn: f(p, keys, batch)[0])(own)
        finite = [bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((value, grads))]
        assert all(finite), (process, value, grads)
        tried.add(process)
    assert len(tried) >= len(spec.names(diffjax.schedules)) - 1


@pytest.mark.parametrize(
    ("build", "process", "options", "message"),
    [
        (hybrid_loss, Process(Linear()), {}, "choose loss denoising or vlb"),
        (vlb_loss, Process(Linear()), {"times": LogitNormal()}, "uniform or importance, or grid"),
        (
            continuous_vlb_loss,
            Process(Linear()),
            {"times": Grid()},
            "choose times uniform or importance",
        ),
        (
            continuous_vlb_loss,
            Process(Linear(), learned_variance=True),
            {},
            "choose loss hybrid or vlb",
        ),
        (vlb_loss, Process(Monotone()), {}, "choose loss continuous_vlb"),
        (
            hybrid_loss,
            Process(Linear(), learned_variance=True),
            {"huber": -1.0},
            "huber=-1.0",
        ),
    ],
)
def test_refusals(build, process, options, message):
    with pytest.raises(UserError, match=message):
        build(process, linear, **options)

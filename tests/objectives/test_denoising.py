"""The denoising loss on a Gaussian, whose smallest loss is known, and each of its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from oracles import Gaussian, linear_betas

from diffjax.conditions.label import Label
from diffjax.errors import UserError
from diffjax.objectives.denoising import denoising_loss, target_error
from diffjax.objectives.noising import Noising
from diffjax.process import Process, expand
from diffjax.randomness import sample_keys
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.monotone import Monotone
from diffjax.time_laws.grid import Grid
from diffjax.time_laws.importance import Importance
from diffjax.time_laws.log_normal import LogNormal
from diffjax.time_laws.logit_normal import LogitNormal
from diffjax.weightings.edm import EDMWeighting
from diffjax.weightings.min_snr import MinSNR

COUNT = 4096
KEYS = sample_keys(jax.random.key(0), 0, COUNT)
ORACLE = {"mean": 0.3, "std": 0.5}
GAUSSIAN = {"image": 0.3 + 0.5 * jax.random.normal(jax.random.key(1), (COUNT, 2, 2, 2))}


def exact(process):
    """The network that no other is better than."""

    def apply(variables, x, index, *cond, train):
        t = (index + 1) / process.schedule.steps
        prediction = Gaussian(process.schedule, **ORACLE).denoise(x, t)
        return process.target_of(prediction.x0, prediction.eps, t)

    return apply


def zero(variables, x, index, *cond, train):
    assert train
    return jnp.zeros_like(x)


def close(loss, wanted, share=0.03):
    """Within about five standard errors of 32,768 pixels at 4,096 times."""
    np.testing.assert_allclose(loss, wanted, rtol=share)


def test_simple_loss_of_the_exact_denoiser():
    """The mean over DDPM's steps of Var(eps | x) = alpha² std² / (alpha² std² + sigma²)."""
    process = Process(Linear())
    loss, metrics = denoising_loss(process, exact(process))({}, KEYS, GAUSSIAN)
    alpha_bar = np.cumprod(1 - linear_betas())
    signal = 0.25 * alpha_bar
    close(loss, np.mean(signal / (signal + 1 - alpha_bar)))
    assert metrics == {}


def test_flow_matching_with_logit_normal_times():
    """Of x = (1 - t) x0 + t eps, Var(eps - x0 | x) = std² / ((1 - t)² std² + t²)."""
    process = Process(Flow(), "velocity")
    law = LogitNormal(0.4, 0.8)
    loss, _ = denoising_loss(process, exact(process), times=law)({}, KEYS, GAUSSIAN)

    def integrand(logit):
        t = scipy.special.expit(logit)
        return scipy.stats.norm.pdf(logit, 0.4, 0.8) * 0.25 / ((1 - t) ** 2 * 0.25 + t**2)

    close(loss, scipy.integrate.quad(integrand, -8, 9)[0])


def test_edms_loss():
    """Karras et al. 2022, eq. 2 and table 1: lambda |D - x0|² over log-normal sigma."""
    process = Process(EDM(), "edm")

    def apply(variables, x, index, train):
        t = (index + 1) / 1000
        # What comes in has been scaled by c_in.
        sigma = process.schedule.sigma_ve(t).reshape(-1, 1, 1, 1)
        prediction = Gaussian(process.schedule, **ORACLE).denoise(x * jnp.hypot(sigma, 0.5), t)
        return process.target_of(prediction.x0, prediction.eps, t)

    options = {"weighting": EDMWeighting(), "times": LogNormal()}
    loss, _ = denoising_loss(process, apply, **options)({}, KEYS, GAUSSIAN)
    # Var(x0 | x) = sigma² std² / (sigma² + std²), 1 / lambda where std is sigma_data.
    close(loss, 1.0)


def test_weighted_loss_does_not_depend_on_the_target():
    losses = []
    for target in ("eps", "x0", "v", "score", "edm"):
        process = Process(Cosine(max_beta=0.9), target)

        def apply(variables, x, index, train, process=process):
            t = (index + 1) / process.schedule.steps
            x = x / process.model_input(jnp.ones_like(x), t)
            alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in process.schedule.alpha_sigma(t))
            x0 = 0.2 + 0.1 * x
            return process.target_of(x0, (x - alpha * x0) / sigma, t)

        loss_fn = denoising_loss(process, apply, weighting=MinSNR(), times=Importance())
        losses.append(loss_fn({}, KEYS, GAUSSIAN)[0])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-3)


def test_importance_multiplies_the_loss():
    """The squared error of x0 is the same at all times: its mean is not moved by how they fall."""
    process = Process(Linear(), "x0")
    by_grid, by_importance = (
        float(denoising_loss(process, zero, times=times)({}, KEYS, GAUSSIAN)[0])
        for times in (Grid(), Importance())
    )
    assert by_grid != by_importance
    close(by_importance, by_grid, 0.1)


@pytest.mark.parametrize("c", [1e-4, 0.3, 2.0, 1e4])
def test_huber(c):
    """Against the formula in float64: the error is the image where the network says 0."""
    loss, _ = denoising_loss(Process(Linear(), "x0"), zero, huber=c)({}, KEYS, GAUSSIAN)
    error = np.asarray(GAUSSIAN["image"], np.float64)
    np.testing.assert_allclose(loss, np.mean(2 * c * (np.sqrt(error**2 + c**2) - c)), rtol=1e-4)
    if c == 1e-4:
        np.testing.assert_allclose(loss, 2 * c * np.mean(np.abs(error)), rtol=1e-3)
    if c == 1e4:
        np.testing.assert_allclose(loss, np.mean(error**2), rtol=1e-5)


def test_offset_noise_is_one_constant_a_channel():
    """Of covariance 1 + s² on the diagonal, s² within a channel and 0 between two."""
    noised = Noising(Process(Linear()), zero, Grid(), offset_noise=0.6)({}, KEYS, GAUSSIAN)
    eps = np.moveaxis(np.asarray(noised.eps, np.float64), 3, 1).reshape(COUNT, 8)
    wanted = np.eye(8) + 0.36 * np.kron(np.eye(2), np.ones((4, 4)))
    covariance = eps.T @ eps / COUNT
    # The variance of a product of two such is at most 1.36² + 0.36².
    assert np.abs(covariance - wanted).max() < 5 * np.sqrt((1.36**2 + 1.36**2) / COUNT)
    alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in Linear().alpha_sigma(noised.t))
    np.testing.assert_allclose(noised.x, alpha * noised.x0 + sigma * noised.eps, atol=1e-5)


def told(variables, x, index, cond, train):
    return cond[:, None, None, None] * jnp.ones_like(x)


def test_target_error():
    """Of a network that knows the one image there is, and is off by a half in a quarter of it."""
    process, x0 = Process(Linear()), 0.3

    def apply(variables, x, t, label, *, train):
        assert not train
        alpha, sigma = process.schedule.alpha_sigma((t + 1) / 1000)
        exact = (x - expand(alpha, x) * x0) / expand(sigma, x)
        return exact.at[:, :2, :2].add(0.5 * (1 + label[:, None, None, None]))

    error = target_error(process, apply, Label(3))
    batch = {"image": jnp.full((3, 4, 4, 2), x0), "label": jnp.array([0, 1, 2])}
    found = error({}, jax.random.split(jax.random.key(0), 3), batch)
    np.testing.assert_allclose(found, 0.25 * np.array([0.5, 1, 1.5]) ** 2, rtol=1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_cond_drop(rate):
    labels = jnp.arange(COUNT) % 10
    batch = {**GAUSSIAN, "label": labels}
    noising = Noising(Process(Linear()), told, Grid(), Label(10, drop=rate))
    seen = np.asarray(noising({}, KEYS, batch).output[:, 0, 0, 0])
    dropped = seen == 10
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / COUNT)
    np.testing.assert_array_equal(seen[~dropped], np.asarray(labels)[~dropped])
    part = {name: value[100:107] for name, value in batch.items()}
    np.testing.assert_array_equal(
        noising({}, KEYS[100:107], part).output[:, 0, 0, 0], seen[100:107]
    )


def test_labels_are_the_batchs_where_none_is_dropped():
    labels = jnp.arange(COUNT) % 10
    noising = Noising(Process(Linear()), told, Grid(), Label(10))
    output = noising({}, KEYS, {**GAUSSIAN, "label": labels}).output
    np.testing.assert_array_equal(output[:, 0, 0, 0], labels)


@pytest.mark.parametrize("process", [Process(EDM()), Process(EDM(), "edm"), Process(Linear())])
def test_the_network_sees_in_training_what_it_sees_in_sampling(process):
    seen = []

    def apply(variables, x, index, train=False):
        seen.append((x, index))
        return x

    noised = Noising(process, apply, Grid())({}, KEYS[:8], {"image": GAUSSIAN["image"][:8]})
    process.denoiser(apply, {})(noised.x, noised.t)
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    np.testing.assert_array_equal(seen[0][1], seen[1][1])


def test_what_a_sample_draws_is_its_own():
    options = {"offset_noise": 0.1, "condition": Label(3, drop=0.5)}
    noising = Noising(Process(Cosine()), told, Importance(), **options)
    batch = {"image": GAUSSIAN["image"][:6], "label": jnp.arange(6) % 3}
    whole = noising({}, KEYS[:6], batch)
    part = noising({}, KEYS[4:6], {name: value[4:6] for name, value in batch.items()})
    for a, b in zip(whole[1:], part[1:], strict=True):
        np.testing.assert_array_equal(a[4:6], b)


@pytest.mark.parametrize(
    ("process", "options", "message"),
    [
        (Process(Linear()), {"huber": -1.0}, "huber=-1.0"),
        (Process(Linear()), {"offset_noise": -0.1}, "offset_noise=-0.1"),
        (Process(Linear(), learned_variance=True), {}, "choose loss hybrid or vlb"),
        (Process(Monotone()), {}, "choose loss continuous_vlb"),
    ],
)
def test_refusals(process, options, message):
    with pytest.raises(UserError, match=message):
        denoising_loss(process, zero, **options)

"""Averages of any length, made afterwards, against the sums over all steps that they stand for."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from diffjax.errors import UserError
from diffjax.training.averages import (
    KEPT,
    Profile,
    average,
    averages_of,
    best_weights,
    exponent_of,
    product,
    save_averages,
    with_averages,
)

STEPS = 400


def path_of_weights():
    """Weights that wander and settle, step by step."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(STEPS, 3)).cumsum(0) / np.arange(1, STEPS + 1)[:, None] ** 0.5
    return (noise + np.linspace(2, -1, STEPS)[:, None] ** 2).astype(np.float32)


def summed(path, step, exponent):
    """The average of algorithm 1, in float64: each step keeps (1 - 1/t)^(g + 1) of it."""
    total = np.zeros(path.shape[1])
    for t in range(1, step + 1):
        keep = (1 - 1 / t) ** (exponent + 1)
        total = keep * total + (1 - keep) * path[t - 1]
    return total


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of an optimizer that follows the path, and the folder of what it wrote."""
    folder, path = tmp_path_factory.mktemp("run") / "averages", path_of_weights()
    tx = with_averages(optax.sgd(1.0))
    params = {"net": {"w": jnp.zeros(3)}}
    state = tx.init(params)
    for t in range(1, STEPS + 1):
        grads = {"net": {"w": params["net"]["w"] - path[t - 1]}}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if t % 25 == 0:
            save_averages(folder, t, averages_of(state))
    return folder, path


def test_kept_averages_are_the_papers(trained):
    folder, path = trained
    for step in (25, STEPS):
        for length in KEPT:
            found = average(folder, step, length)["net"]["w"]
            np.testing.assert_allclose(found, summed(path, step, exponent_of(length)), atol=2e-4)


@pytest.mark.parametrize("length", [0.03, 0.07, 0.15, 0.25])
def test_another_length(trained, length):
    """Near the sum over all steps, and far nearer than either average that was kept."""
    folder, path = trained
    wanted = summed(path, STEPS, exponent_of(length))
    found = average(folder, STEPS, length)["net"]["w"]
    kept = [np.abs(summed(path, STEPS, exponent_of(other)) - wanted).max() for other in KEPT]
    assert np.abs(found - wanted).max() < 0.1 * min(kept)


@settings(deadline=None)
@given(st.floats(0.01, 0.28))
def test_exponents(length):
    """The profile's own mean and standard deviation, by quadrature."""
    g = exponent_of(length)
    moments = [integrate.quad(lambda u, n=n: (g + 1) * u ** (g + n), 0, 1)[0] for n in range(3)]
    assert moments[0] == pytest.approx(1, rel=1e-6)
    assert np.sqrt(moments[2] - moments[1] ** 2) == pytest.approx(length, rel=1e-3)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.5, 30), st.floats(0.5, 30))
def test_products(a, b, g, h):
    def profile(u, step, exponent):
        return (exponent + 1) * (u / step) ** exponent / step

    wanted, _ = integrate.quad(
        lambda u: profile(u, a, g) * profile(u, b, h), 0, min(a, b), epsabs=0, limit=200
    )
    assert product(Profile(a, g), Profile(b, h)) == pytest.approx(wanted, rel=1e-4)


def test_what_was_kept_is_taken_alone():
    kept = [Profile(at, g) for at in (10, 20, 30) for g in (6.9, 16.97)]
    np.testing.assert_allclose(best_weights(kept, kept[3]), np.eye(6)[3], atol=1e-4)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3, float("nan")])
def test_lengths_that_are_none(length):
    with pytest.raises(UserError, match="choose a number above 0"):
        exponent_of(length)


def test_what_cannot_be_read(trained, tmp_path):
    folder, _ = trained
    with pytest.raises(UserError, match="no averages of step 30"):
        average(folder, 30, 0.1)
    (tmp_path / "step_00000025.npz").write_bytes((folder / "step_00000025.npz").read_bytes()[:99])
    with pytest.raises(UserError, match="copy or download it again"):
        average(tmp_path, 25, 0.1)

"""Masked codes of a law that is known: the bound, what the loss teaches, and what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffjax.absorbing import absorbing_loss, shown, unmask
from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.randomness import sample_keys

K, SHAPE, COUNT = 3, (1, 2), 20_000
KEYS = sample_keys(jax.random.key(0), 0, COUNT)
# Two codes that depend on each other: p(a, b).
LAW = np.array([[0.30, 0.05, 0.05], [0.02, 0.20, 0.08], [0.10, 0.10, 0.10]])
ENTROPY = -(LAW * np.log(LAW)).sum() / 2  # nats a code


def exact(variables, x, index, train=False):
    """The logits of each code given the other, or of its own share where both are masked."""
    law = jnp.asarray(LAW)
    other = x[:, 0, ::-1]  # what stands in the other place
    seen = other[..., :K]
    of_first = seen[:, 0] @ law.T + other[:, 0, K:] * law.sum(1)
    of_second = seen[:, 1] @ law + other[:, 1, K:] * law.sum(0)
    return jnp.log(jnp.stack([of_first, of_second], 1))[:, None] + variables["params"]


def drawn_codes():
    flat = np.random.default_rng(0).choice(K * K, size=COUNT, p=LAW.ravel())
    return jnp.asarray(np.stack(np.divmod(flat, K), -1)[:, None])


def test_the_bound_of_the_exact_network_is_the_entropy():
    """And the gradient is nil there: no other logits do better."""
    loss = absorbing_loss(exact, K, Unconditional())
    value, grads = jax.value_and_grad(lambda p: loss(p, KEYS, {"codes": drawn_codes()})[0])(
        jnp.zeros(K)
    )
    assert value == pytest.approx(ENTROPY, rel=0.03)
    assert np.abs(grads).max() < 0.02
    worse, _ = loss(jnp.asarray([0.5, 0.0, 0.0]), KEYS, {"codes": drawn_codes()})
    assert worse > value + 0.02


@pytest.mark.parametrize("steps", [2, 30])
def test_what_is_drawn_has_the_law(steps):
    """In many steps; in one step, or where two masks fall together, codes would be independent."""
    path = jax.jit(lambda: unmask(exact, jnp.zeros(K), KEYS, None, SHAPE, K, steps, watched=4))()
    codes = np.asarray(path.codes)[:, 0]
    counts = np.zeros((K, K))
    np.add.at(counts, tuple(codes.T), 1)
    # Both codes come in the same step with probability 1 / steps, and then of the margins.
    apart = 1 - 1 / steps
    law = apart * LAW + (1 - apart) * np.outer(LAW.sum(1), LAW.sum(0))
    assert stats.chisquare(counts.ravel(), COUNT * law.ravel()).pvalue > 1e-3
    film = np.asarray(path.film)
    assert film.shape == (steps, 4, *SHAPE)
    np.testing.assert_array_equal(film[-1], path.codes[:4])
    kept = film[:-1] != K
    np.testing.assert_array_equal(film[1:][kept], film[:-1][kept])


def test_what_is_hidden_and_how_it_is_shown():
    codes, masked = jnp.asarray([[[0, 2]]]), jnp.asarray([[[False, True]]])
    np.testing.assert_array_equal(shown(codes, masked, K), [[[[1, 0, 0, 0], [0, 0, 0, 1]]]])


def test_the_condition_reaches_the_network():
    def told(variables, x, index, label, train=False):
        assert label.shape == (8,)
        return jnp.zeros((*x.shape[:-1], K))

    batch = {"codes": jnp.zeros((8, *SHAPE), int), "label": jnp.zeros(8, jnp.int32)}
    value, _ = absorbing_loss(told, K, Label(2))({}, KEYS[:8], batch)
    assert np.isfinite(value)

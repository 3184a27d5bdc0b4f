"""Batch norm against float64 means and variances, and where its statistics lie."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffjax.models.batch_norm import BatchNorm
from diffjax.models.stateful import STATISTICS, Stateful, collect

X = 2 * jax.random.normal(jax.random.key(0), (4, 3, 5, 2)) + jnp.asarray([10.0, -1.0])


class Net(Stateful):
    @nn.compact
    def __call__(self, x, *, train=False):
        return BatchNorm(train, name="norm")(x)


def test_by_the_batch_in_training_and_by_running_statistics_after():
    net = Net()
    params = net.init(jax.random.key(1), X)["params"]
    assert set(params) == {"norm", STATISTICS}
    with collect() as moved:
        out = net.apply({"params": params}, X, train=True)
    x = np.asarray(X, np.float64)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(out, (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    (call,) = moved
    statistics = call.collections[STATISTICS]
    np.testing.assert_allclose(statistics["norm"]["mean"], 0.1 * mean, rtol=1e-5)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(statistics["norm"]["var"], 0.9 + 0.1 * unbiased, rtol=1e-5)
    after = net.apply({"params": {**params, STATISTICS: statistics}}, X)
    wanted = (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * unbiased + 1e-5)
    np.testing.assert_allclose(after, wanted, rtol=1e-5, atol=1e-5)


def test_running_statistics_have_no_gradient_where_they_are_used():
    net = Net()
    params = net.init(jax.random.key(1), X)["params"]
    grads = jax.grad(lambda params: jnp.sum(net.apply({"params": params}, X) ** 2))(params)
    assert all(not np.any(g) for g in jax.tree.leaves(grads[STATISTICS]))
    assert all(np.all(g) for g in jax.tree.leaves(grads["norm"]))


def test_initialising_moves_nothing():
    params = Net().init(jax.random.key(1), X, train=True)["params"]
    np.testing.assert_array_equal(params[STATISTICS]["norm"]["mean"], 0)
    np.testing.assert_array_equal(params[STATISTICS]["norm"]["var"], 1)

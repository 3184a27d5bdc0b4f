"""Model state: how a tree is cut and joined, and what calls in training compute."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from diffjax.models.batch_norm import BatchNorm
from diffjax.models.stateful import (
    STATISTICS,
    Stateful,
    collect,
    marked,
    mean_state,
    merge_state,
    split_state,
)

X = 2 * jax.random.normal(jax.random.key(0), (4, 3, 5, 2)) + jnp.asarray([10.0, -1.0])
HELD = {"norm": {"mean": 1.0, "var": 2.0}}
NETWORK = {"norm": {"scale": 3.0}, "w": 4.0}
FLAT = {**NETWORK, STATISTICS: HELD}


class Net(Stateful):
    @nn.compact
    def __call__(self, x, *, train=False):
        return BatchNorm(train, name="norm")(x)


@pytest.mark.parametrize(
    ("tree", "params", "model_state"),
    [
        (FLAT, NETWORK, {STATISTICS: HELD}),
        (NETWORK, NETWORK, {}),
        (5.0, 5.0, {}),
        (
            {"denoiser": FLAT, "schedule": {"w": 1.0}, "logit_scale": 2.0},
            {"denoiser": NETWORK, "schedule": {"w": 1.0}, "logit_scale": 2.0},
            {"denoiser": {STATISTICS: HELD}},
        ),
        (
            {**FLAT, "judge": FLAT},
            {**NETWORK, "judge": NETWORK},
            {STATISTICS: HELD, "judge": {STATISTICS: HELD}},
        ),
        ({"only": {STATISTICS: HELD}}, {"only": {}}, {"only": {STATISTICS: HELD}}),
    ],
)
def test_a_tree_is_cut_and_joined(tree, params, model_state):
    before = jax.tree.map(lambda leaf: leaf, tree)
    assert split_state(tree) == (params, model_state)
    assert merge_state(params, model_state) == tree
    assert tree == before


def test_new_state_replaces_old_state_and_leaves_the_rest():
    old = {"a": {STATISTICS: HELD}, "b": {STATISTICS: HELD}}
    new = {"b": {STATISTICS: {"norm": {"mean": 7.0, "var": 8.0}}}}
    assert merge_state(old, new) == {"a": old["a"], "b": new["b"]}


def test_marked_state_serves_networks_as_plain_state_does():
    params, model_state = split_state(Net().init(jax.random.key(1), X)["params"])
    plain = Net().apply({"params": merge_state(params, model_state)}, X)
    through = jax.jit(lambda tree: Net().apply({"params": tree}, X))
    chex.assert_trees_all_close(through(merge_state(params, marked(model_state))), plain)


def test_calls_are_told_apart_by_component_and_averaged():
    params, model_state = split_state({"net": Net().init(jax.random.key(1), X)["params"]})
    with collect() as moved:
        plain = merge_state(params, model_state)["net"]
        Net().apply({"params": plain}, X, train=True)
        assert mean_state(moved) == {}
        tree = merge_state(params, marked(model_state))["net"]
        for x in (X, X + 2):
            Net().apply({"params": tree}, x, train=True)
    found = mean_state(moved)
    chex.assert_trees_all_equal_structs(found, model_state)
    mean = np.mean(np.asarray(X, np.float64), (0, 1, 2))
    np.testing.assert_allclose(found["net"][STATISTICS]["norm"]["mean"], 0.1 * (mean + 1), 1e-5)


def test_within_one_collection_another_keeps_its_own():
    net = Net()
    params = net.init(jax.random.key(1), X)["params"]
    with collect() as outer:
        net.apply({"params": params}, X, train=True)
        with collect() as inner:
            net.apply({"params": params}, X, train=True)
        net.apply({"params": params}, X, train=True)
    assert (len(outer), len(inner)) == (2, 1)

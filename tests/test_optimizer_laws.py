"""Optimizers: what all must keep, and Muon against a singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import diffjax.optimizers
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.unet import UNet
from diffjax.optimizers.muon import Muon, kinds, orthogonal

NAMES = spec.names(diffjax.optimizers)
RATE = optax.constant_schedule(0.05)


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    """It is built from its text, and brings a network's parameters to the least of a parabola."""
    optimizer = spec.build(name, diffjax.optimizers)
    assert spec.build(spec.render(optimizer), diffjax.optimizers) == optimizer
    tx = optimizer.transformation(optax.cosine_decay_schedule(0.05, 300))
    goal = {
        "layer": {"kernel": np.linspace(-0.3, 0.3, 9 * 2 * 16).reshape(3, 3, 2, 16)},
        "b": np.ones(3),
    }

    @jax.jit
    def step(params, state):
        grads = jax.tree.map(lambda p, g: p - g, params, goal)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.zeros_like, goal)
    state = tx.init(params)
    for _ in range(300):
        params, state = step(params, state)
    for found, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(goal), strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.02)


def test_muon_moves_all_directions_of_a_kernel_alike():
    """The first step is U V^T of the gradient, times 0.2 sqrt(longer side) and the rate.

    Newton-Schulz is rough: it takes singular values to between 0.68 and 1.13 (Jordan et al. 2024).
    """
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 8, 32)) * np.geomspace(1, 10, 32)
    params = {"kernel": jnp.zeros(kernel.shape)}
    tx = Muon().transformation(RATE)
    updates, _ = tx.update({"kernel": jnp.asarray(kernel)}, tx.init(params), params)
    matrix = np.asarray(updates["kernel"], np.float64).reshape(72, 32)
    left, _, right = np.linalg.svd(kernel.reshape(72, 32), full_matrices=False)
    inner = -(left.T @ matrix @ right.T) / (0.05 * 0.2 * np.sqrt(72))
    assert np.diag(inner).min() > 0.65
    assert np.diag(inner).max() < 1.2
    np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 72, 32), (1, 32, 72), (3, 16, 16)])
@pytest.mark.parametrize("steps", [1, 5])
def test_orthogonal_is_the_newton_schulz_iteration_of_optax(shape, steps):
    x = np.random.default_rng(1).normal(size=shape) * np.geomspace(1e-3, 1, shape[2])
    expected = [
        optax.contrib._muon.orthogonalize_via_newton_schulz(
            jnp.asarray(matrix), jnp.asarray([3.4445, -4.7750, 2.0315]), steps
        )
        for matrix in x
    ]
    found = orthogonal(jnp.asarray(x, jnp.float32), steps)
    np.testing.assert_allclose(found, np.stack(expected), atol=2e-4)


def test_no_gradient_moves_no_kernel():
    params = {"kernel": jnp.ones((4, 32))}
    tx = Muon().transformation(RATE)
    updates, _ = tx.update({"kernel": jnp.zeros((4, 32))}, tx.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], 0)


def test_muon_steps_as_optax_does():
    """Ten steps of two kernels of one shape: the other's momentum differs by its first steps."""
    rng = np.random.default_rng(2)
    params = {n: {"kernel": jnp.zeros((3, 3, 4, 24))} for n in ("a", "b")}
    axes = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    dims = {n: {"kernel": axes} for n in ("a", "b")}
    theirs = optax.contrib.muon(
        0.05, beta=0.95, consistent_rms=0.2, muon_weight_dimension_numbers=dims
    )
    ours = Muon().transformation(RATE)
    states = theirs.init(params), ours.init(params)
    for _ in range(10):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        expected, first = theirs.update(grads, states[0], params)
        found, second = ours.update(grads, states[1], params)
        states = first, second
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        cosine = jnp.vdot(own, other) / jnp.linalg.norm(own) / jnp.linalg.norm(other)
        assert cosine > 0.99
        np.testing.assert_allclose(jnp.linalg.norm(own), jnp.linalg.norm(other), rtol=0.05)


def test_muon_takes_kernels_and_leaves_the_rest_to_adam():
    net = UNet(
        block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4, num_class_embeds=3,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    images, labels = jnp.zeros((1, 4, 4, 3)), jnp.zeros(1, jnp.int32)
    params = jax.eval_shape(net.init, jax.random.key(0), images, jnp.zeros(1), labels)["params"]
    found = {}
    for path, kind in jax.tree_util.tree_leaves_with_path(kinds(params)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found[name] = kind == "matrix"
        assert found[name] == (name.endswith("/kernel") and name != "conv_out/kernel"), name
    assert found["class_embedding/embedding"] is False
    assert len(found) == len(jax.tree.leaves(params))


def test_weight_decay_shrinks_by_rate_times_decay():
    tx = spec.build("adam(weight_decay=0.5)", diffjax.optimizers).transformation(RATE)
    params = {"kernel": jnp.full((2, 2), 3.0)}
    updates, _ = tx.update({"kernel": jnp.zeros((2, 2))}, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -3 * 0.5 * 0.05, rtol=1e-6)


@pytest.mark.parametrize(
    "text", ["adam(beta1=1.0)", "adam(weight_decay=-0.1)", "muon(beta=-0.1)", "muon(steps=0)"]
)
def test_numbers_out_of_range(text):
    with pytest.raises(UserError, match=text.partition("=")[0].partition("(")[2]):
        spec.build(text, diffjax.optimizers)

"""Model state in checkpoints: full, empty, and as readers of a run get it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import trained
from diffjax.models.stateful import STATISTICS
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.run import RunConfig, RunFolder
from diffjax.training.step import init_state

MODEL = "course_unet(channels=(4,4,8),form='first',norm='%s',pooling='max',groups=(2,2))"


def config_of(norm):
    return RunConfig("ddpm", MODEL % norm, (8, 8, 1), None, {}, "linear", "eps")


def state_of(config, seed=0):
    """A state whose averaged parameters and model state are not as they begin."""
    model, _ = trained.build(config)
    tree = trained.init_params(model, config, jax.random.key(seed))
    state = init_state(tree, optax.adam(0.1))
    ema = jax.tree.map(lambda a: a + 1, state.ema_params)
    model_state = jax.tree.map(lambda a: a + 2, state.model_state)
    return state.replace(step=jnp.int32(3), ema_params=ema, model_state=model_state)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_checkpoint_holds_model_state(tmp_path, norm):
    config = config_of(norm)
    state = state_of(config)
    assert bool(state.model_state) == (norm == "batch")
    with RunFolder.create(tmp_path / "run", config, "") as run, Checkpoints(run.checkpoints) as c:
        c.save(3, state, {})
        c.wait()
        taken_up, _ = c.restore(jax.eval_shape(lambda: state_of(config)))
    chex.assert_trees_all_equal(jax.device_get(taken_up), jax.device_get(state))
    found = trained.load(run.path)
    assert found.step == 3
    chex.assert_trees_all_equal(found.params, state.eval_params)
    assert (STATISTICS in found.params) == (norm == "batch")
    images = found.model.apply({"params": found.params}, jnp.ones((2, 8, 8, 1)), jnp.zeros(2))
    assert np.isfinite(images).all()


def test_a_checkpoint_from_before_model_state_is_taken_up(tmp_path):
    config = config_of("group")
    state = state_of(config)
    names = ("step", "params", "ema_params", "opt_state")
    with RunFolder.create(tmp_path / "run", config, "") as run, Checkpoints(run.checkpoints) as c:
        c.save(3, {name: getattr(state, name) for name in names}, {})
        c.wait()
        taken_up, _ = c.restore(state)
    chex.assert_trees_all_equal(jax.device_get(taken_up), jax.device_get(state))
    chex.assert_trees_all_equal(trained.load(run.path).params, state.ema_params)

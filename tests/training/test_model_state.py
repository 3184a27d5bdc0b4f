"""Model state in checkpoints: full, empty, and as readers of a run get it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax import runs
from diffjax.models.course_unet import CourseUNet
from diffjax.models.stateful import STATISTICS
from diffjax.runs import RunConfig, Training
from diffjax.schedules.linear import Linear
from diffjax.tasks.diffusion import Diffusion
from diffjax.training.checkpoint import Checkpoints
from diffjax.training.run import RunFolder
from diffjax.training.step import init_state


def config_of(norm):
    model = CourseUNet(channels=(4, 4, 8), form="first", norm=norm, pooling="max", groups=(2, 2))
    task = Diffusion(model=model, image_shape=(8, 8, 1), schedule=Linear(), target="eps")
    return RunConfig(task, Training())


def state_of(config, seed=0):
    """A state whose averaged parameters and model state are not as they begin."""
    state = init_state(jax.jit(config.task.init)(jax.random.key(seed), {}), optax.adam(0.1))
    ema = jax.tree.map(lambda a: a + 1, state.ema_params)
    model_state = jax.tree.map(lambda a: a + 2, state.model_state)
    return state.replace(step=jnp.int32(3), ema_params=ema, model_state=model_state)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_checkpoint_holds_model_state(tmp_path, norm):
    config = config_of(norm)
    state = state_of(config)
    assert bool(state.model_state) == (norm == "batch")
    with (
        RunFolder.create(tmp_path / "run", config.to_dict(), "") as run,
        Checkpoints(run.checkpoints) as c,
    ):
        c.save(3, state, {})
        c.wait()
        taken_up, _ = c.restore(jax.eval_shape(lambda: state_of(config)))
    chex.assert_trees_all_equal(jax.device_get(taken_up), jax.device_get(state))
    found = runs.load(run.path)
    assert found.step == 3
    denoiser = found["denoiser"]
    chex.assert_trees_all_equal({"denoiser": denoiser.params}, state.eval_params)
    assert (STATISTICS in denoiser.params) == (norm == "batch")
    apply = jax.jit(denoiser.model.apply)
    images = apply({"params": denoiser.params}, jnp.ones((2, 8, 8, 1)), jnp.zeros(2))
    assert np.isfinite(images).all()

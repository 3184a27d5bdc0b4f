"""Each time embedding gets the form of time that it was made for, finite from end to end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax.schedules
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.course_unet import CourseUNet
from diffjax.models.dit import DiT
from diffjax.models.unet import UNet
from diffjax.process import LEAST_SIGMA, Process
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.schedules.linear import Linear
from diffjax.schedules.variance_exploding import VarianceExploding

SCHEDULES = {name: spec.build(name, diffjax.schedules) for name in spec.names(diffjax.schedules)}
SCHEDULES["zero_terminal"] = Linear(zero_terminal_snr=True)
TIMES = jnp.asarray([0.0, 1e-7, 1e-4, 0.3, 1.0])
X = jnp.ones((len(TIMES), 4, 4, 1))


@functools.cache
def network(kind):
    """A tiny network of a time embedding, and a compiled (params, t) -> output."""
    if kind.startswith("course"):
        model = CourseUNet(channels=(4, 4, 4), groups=(4, 4), time_embedding=kind[7:])
    elif kind == "transformer":
        model = DiT(
            num_attention_heads=2, attention_head_dim=4, num_layers=1, in_channels=1, sample_size=4,
            num_embeds_ada_norm=None,
        )  # fmt: skip
    else:
        model = UNet(
            in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1,
            norm_num_groups=4, mid_block_type=None, down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",), time_embedding_type=kind, num_train_timesteps=1000,
        )  # fmt: skip
    params = jax.jit(model.init)(jax.random.key(0), X[:1], jnp.ones(1))["params"]
    # Where it would begin with zeros, the time would not show.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return (
        model,
        jax.tree.unflatten(tree, drawn),
        jax.jit(lambda p, t: model.apply({"params": p}, X, t)),
    )


KINDS = [
    "positional", "fourier", "learned", "course_sinusoidal", "course_fourier", "course_raw",
    "transformer",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_embedding_with_every_schedule(kind, name):
    """Finite from t = 0 to t = 1, or refused by name."""
    schedule, (model, params, apply) = SCHEDULES[name], network(kind)
    if kind == "fourier" and schedule.zero_terminal:
        with pytest.raises(UserError, match=f"{type(schedule).__name__} ends without any signal"):
            Process(schedule, "x0", time_input=model.time_input)
        return
    process = Process(schedule, "x0", time_input=model.time_input)
    out = np.asarray(apply(params, process.model_time(TIMES)))
    assert np.isfinite(out).all()
    assert np.ptp(out, axis=0).max() > 1e-4  # the time shows


def test_index():
    index = Process(Cosine(steps=10)).model_time(jnp.asarray([0.0, 0.1, 0.55, 1.0]))
    np.testing.assert_allclose(index, [-1, 0, 4.5, 9], atol=1e-6)


def test_forms_of_time_that_diffusers_gives():
    """Whole indices, training steps counted from 1, and Karras et al.'s c_noise (2022, table 1)."""
    t = jnp.asarray([0.1, 0.54, 1.0])
    for form, expected in (("whole_index", [0, 4, 9]), ("count", [1, 5.4, 10])):
        np.testing.assert_allclose(
            Process(Cosine(steps=10), time_input=form).model_time(t), expected
        )
    told = Process(EDM(), "edm", time_input="c_noise").model_time(jnp.ones(()))
    np.testing.assert_allclose(told, np.log(80) / 4, rtol=1e-6)


@pytest.mark.parametrize("schedule", [Linear(), VarianceExploding(), Cosine()])
def test_sigma_and_log_snr_are_the_schedules(schedule):
    t = TIMES[2:]
    sigma = Process(schedule, "x0", time_input="sigma").model_time(TIMES)
    alpha, noise = schedule.alpha_sigma(t)
    np.testing.assert_allclose(sigma[2:], noise / alpha, rtol=2e-4)
    assert sigma[0] == np.float32(LEAST_SIGMA)
    log_snr = Process(schedule, "x0", time_input="log_snr").model_time(TIMES)
    np.testing.assert_allclose(jnp.exp(-log_snr[2:] / 2), sigma[2:], rtol=1e-5)
    assert log_snr[0] == 40


def test_log_snr_ends_where_there_is_no_signal():
    assert Process(Flow(), "x0", time_input="log_snr").model_time(jnp.asarray(1.0)) == -40


def test_learned_rows_before_the_first_and_out_of_range():
    """Index -1 is t = 0 and has the first row; what no schedule gives is NaN."""
    _, params, apply = network("learned")
    out = np.asarray(apply(params, jnp.asarray([-1.0, 0.0, 999.0, 1000.0, -2.0])))
    np.testing.assert_array_equal(out[0], out[1])
    assert np.isfinite(out[:3]).all()
    assert np.isnan(out[3:]).all()

"""Average velocities of a Gaussian, whose flow is known, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Gaussian

from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.models.unet import UNet
from diffjax.objectives.average_velocity import mean_flow_loss, shortcut_loss
from diffjax.objectives.consistency import consistency_loss
from diffjax.process import Process, expand
from diffjax.randomness import normal, sample_keys
from diffjax.samplers.base import sample
from diffjax.samplers.flow_euler import FlowEuler
from diffjax.samplers.flow_map import FlowMap
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.flow import Flow
from diffjax.tasks.diffusion import Diffusion
from diffjax.time_laws.uniform import Uniform

SHAPE, COUNT, ROUNDS = (2, 3, 1), 256, 60
LOSSES = {"mean_flow": mean_flow_loss, "shortcut": shortcut_loss}
FLOWS = {"even": Flow(), "shifted": Flow(shift=3.0)}
KEYS = sample_keys(jax.random.key(0), 0, COUNT)
TINY = {
    "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "layers_per_block": 1,
    "norm_num_groups": 4, "mid_block_type": None, "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
}  # fmt: skip


def network_of(schedule):
    """The exact average velocity of a Gaussian, times 1 + a and plus b, for params (a, b).

    With S² the variance of a pixel it is (x_t - x_s) / (sigma_t - sigma_s), where x_s keeps x_t's
    quantile; nothing of it divides by the difference.
    """
    oracle = Gaussian(schedule)

    def apply(variables, x, index, span=None, train=False):
        a, b = variables["params"]
        t = (index + 1) / schedule.steps
        s = t if span is None else t - span / schedule.steps
        sigmas = [schedule.alpha_sigma(time)[1] for time in (t, s)]
        stds = [jnp.sqrt((1 - u) ** 2 * oracle.std**2 + u**2) for u in sigmas]
        total = sigmas[0] + sigmas[1]
        slope = (total - oracle.std**2 * (2 - total)) / (stds[0] + stds[1]) / stds[0]
        centred = x - expand(1 - sigmas[0], x) * oracle.mean
        return (1 + a) * (expand(slope, x) * centred - oracle.mean) + b

    return apply


def gradients(name, schedule, params):
    """The gradient of the loss in (a, b), for as many batches as there are rounds."""
    process = Process(schedule, "velocity", average=True)
    loss = LOSSES[name](process, network_of(schedule))

    @jax.jit
    def of_round(i):
        keys = jax.vmap(jax.random.fold_in, (0, None))(KEYS, i)
        image = 0.3 + 0.5 * normal(jax.vmap(jax.random.fold_in, (0, None))(keys, 9), SHAPE)
        return jax.grad(lambda p: loss(p, keys, {"image": image})[0])(params)

    return np.asarray(jax.lax.map(of_round, jnp.arange(ROUNDS)))


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("name", LOSSES)
def test_the_exact_average_velocity_is_where_training_rests(name, flow):
    """Off it the gradient leads back. Halves of the shortest shortcut err by their length."""
    found = gradients(name, FLOWS[flow], jnp.zeros(2))
    error = found.std(0) / np.sqrt(ROUNDS)
    assert (np.abs(found.mean(0)) < 4 * error + 1e-3).all(), (found.mean(0), error)
    for wrong in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1)):
        found = gradients(name, FLOWS[flow], jnp.asarray(wrong))
        which = int(wrong[0] == 0)
        mean = found.mean(0)[which] * np.sign(wrong[which])
        assert mean > 8 * found.std(0)[which] / np.sqrt(ROUNDS), (wrong, mean)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_steps_of_any_length_end_alike(steps, flow):
    schedule = FLOWS[flow]
    process = Process(schedule, "velocity", average=True)
    denoise = process.denoiser(network_of(schedule), jnp.zeros(2))
    x, times = normal(KEYS, SHAPE), jnp.linspace(1, 0, steps + 1)
    found, _ = sample(FlowMap(), schedule, denoise, KEYS, x, times)
    np.testing.assert_allclose(found, Gaussian(schedule).flow(x, 1.0), atol=2e-5)


def test_without_a_span_it_is_a_flow():
    schedule = Flow()
    process = Process(schedule, "velocity", average=True)
    denoise = process.denoiser(network_of(schedule), jnp.zeros(2))
    x, times = normal(KEYS, SHAPE), jnp.linspace(1, 0, 201)
    found, _ = sample(FlowEuler(), schedule, denoise, KEYS, x, times)
    np.testing.assert_allclose(found, Gaussian(schedule).flow(x, 1.0), atol=0.02)
    t = jnp.asarray(0.7)
    for a, b in zip(denoise(x, t)[:2], Gaussian(schedule).denoise(x, t)[:2], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_guidance_is_learnt():
    """The mean squared error of a network that says one number for a class and one for none."""
    process, shape, guidance, image = (
        Process(Flow(), "velocity", average=True),
        (16, 16, 1),
        2.5,
        0.4,
    )
    wanted, null = 0.7, -0.2

    def apply(variables, x, index, label, span=None, train=False):
        return jnp.broadcast_to(expand(jnp.where(label == 3, null, wanted), x), x.shape)

    loss = mean_flow_loss(process, apply, condition=Label(3, drop=0.5), learned_guidance=guidance)
    batch = {"image": jnp.full((COUNT, *shape), image), "label": jnp.ones(COUNT, jnp.int32)}
    _, metrics = loss(jnp.zeros(2), KEYS, batch)
    # Of unit noise, with and without a class.
    told = guidance**2 + (wanted + guidance * image - (1 - guidance) * null) ** 2
    hidden = 1 + (null + image) ** 2
    rate = float(Label(3, drop=0.5).hide(KEYS, batch["label"]).mean() - 1) / 2
    expected = rate * hidden + (1 - rate) * told
    np.testing.assert_allclose(metrics["error"], expected, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_a_network_learns_by_it(name):
    """Through a whole U-Net: finite, told its spans, and with a gradient for each parameter."""
    task = Diffusion(
        model=UNet(**TINY, num_class_embeds=4, spans=True), image_shape=(4, 4, 1), schedule=Flow(),
        target="velocity", condition=Label(3, drop=0.5), objective=name, learned_guidance=2.0,
    )  # fmt: skip
    keys = KEYS[:8]
    batch = {"image": normal(keys, (4, 4, 1)), "label": jnp.arange(8) % 3}
    loss = task.loss({})
    params = task.init(jax.random.key(1), {})
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)
    grads = jax.jit(jax.grad(lambda p: loss.function(p, {}, keys, batch, None)[0]))(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 0, path


def test_consistency_from_nothing_needs_no_teacher():
    """The task's process is a consistency model's, and its loss that of consistency training."""
    task = Diffusion(
        model=UNet(**TINY), image_shape=(4, 4, 1), schedule=Cosine(), target="v",
        objective="consistency", intervals=8, times=Uniform(),
    )  # fmt: skip
    batch, keys = {"image": normal(KEYS[:8], (4, 4, 1))}, KEYS[:8]
    params = task.init(jax.random.key(1), {})
    found, _ = task.loss({}).function(params, {}, keys, batch, None)
    own = consistency_loss(task.process, task.model.apply, 8, times=Uniform())
    assert found == own(params["denoiser"], keys, batch)[0] > 0
    with pytest.raises(UserError, match="denoising knows no intervals"):
        dataclasses.replace(task, objective="denoising").loss({})


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Process(Cosine(), "v", average=True), "schedule flow and target velocity"),
        (
            lambda: Process(Flow(), "velocity", average=True, consistent=True),
            "leave the network's spans out",
        ),
        (lambda: mean_flow_loss(Process(Flow(), "velocity"), lambda: None), "unet(spans=True)"),
        (lambda: shortcut_loss(Process(Flow(), "velocity"), lambda: None), "unet(spans=True)"),
        (
            lambda: mean_flow_loss(
                Process(Flow(), "velocity", average=True), lambda: None,
                condition=Unconditional(), learned_guidance=2.0,
            ),
            "learned_guidance=2.0",
        ),
        (
            lambda: Diffusion(
                model=UNet(**TINY, spans=True), image_shape=(4, 4, 1), schedule=Flow(),
                target="velocity",
            ),
            "loss denoising teaches no steps of a length",
        ),
        (lambda: FlowMap().check(Process(Flow(), "velocity")), "mean_flow or shortcut"),
        (
            lambda: FlowMap().step(
                Flow(), Gaussian(Flow()).denoise, KEYS, normal(KEYS, SHAPE), (),
                jnp.ones(()), jnp.zeros(()),
            ),
            "leave guidance out",
        ),
        (lambda: UNet(**TINY, spans=True, time_embedding_type="fourier"), "positional times"),
    ],
)  # fmt: skip
def test_refused(make, told):
    with pytest.raises(UserError) as caught:
        make()
    assert told in str(caught.value)

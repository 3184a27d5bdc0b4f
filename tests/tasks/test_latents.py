"""Diffusion in the latents of a frozen first stage: learnt, drawn and decoded."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from diffjax.errors import UserError
from diffjax.guidance.classifier import ClassLogProb
from diffjax.guidance.plan import Guidance, Judged, guide
from diffjax.models.classifier import Classifier
from diffjax.models.layers import average_pixels, repeat_pixels
from diffjax.models.unet import UNet
from diffjax.runs import trained_components
from diffjax.schedules.cosine import Cosine
from diffjax.spaces.latents import Latents
from diffjax.tasks.base import Asked, Component, Source, params_of
from diffjax.tasks.diffusion import Diffusion
from diffjax.tasks.tracing import x0_behind
from diffjax.training.step import init_state, make_train_step

NET = UNet(
    in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
    mid_block_type=None, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
)  # fmt: skip
SOURCE = Source("elsewhere", "autoencoder", "0" * 64)
TASK = Diffusion(
    model=NET, image_shape=(8, 8, 1), schedule=Cosine(), target="v",
    space=Latents(channels=1, factor=2, scale_factor=0.5), autoencoder=SOURCE,
)  # fmt: skip


class Stage(nn.Module):
    """Means of 2x2 pixels, times a weight."""

    def setup(self):
        self.gain = self.param("gain", nn.initializers.constant(3.0), ())

    def encode(self, images):
        mean = self.gain * average_pixels(images)
        return mean, jnp.full_like(mean, -60.0)

    def decode(self, z):
        DECODED.append(1)
        return repeat_pixels(z / self.gain)


DECODED = []  # one entry per trace


def components(gain=3.0):
    stage = Component(Stage(), {"gain": jnp.asarray(gain)}, SOURCE)
    return {"autoencoder": stage}


def test_the_loss_is_of_latents_and_the_stage_is_data():
    """The compiled step takes the stage's weights as an argument, and does not move them."""
    frozen, tx = components(), optax.adam(1e-2)
    state = init_state(jax.jit(TASK.init)(jax.random.key(0), params_of(frozen)), tx)
    assert state.params.keys() == {"denoiser"}
    train_step, traced = make_train_step(TASK.loss(frozen), tx, 0.9), []

    @jax.jit
    def step(*args):
        traced.append(1)
        return train_step(*args)

    batch = {"image": jax.random.uniform(jax.random.key(1), (4, 8, 8, 1), minval=-1)}
    losses = []
    for gain in (3.0, 30.0):
        _, metrics = step(state, jax.random.key(2), batch, params_of(components(gain)))
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    assert len(traced) == 1
    keys = jax.random.split(jax.random.key(2), 4)
    encoded = TASK.encoded(frozen, params_of(frozen), keys, batch)["image"]
    np.testing.assert_allclose(encoded, 1.5 * average_pixels(batch["image"]), atol=1e-5)


def test_images_are_drawn_in_latents_and_decoded():
    """x0 has no bound, and the last frame of the trajectory is the image."""
    params = jax.jit(TASK.init)(jax.random.key(0), {})
    whole = {**components(), **trained_components(TASK, params)}
    images, film = TASK.sample(whole, jax.random.key(1), Asked(num=3, steps=2, batch_size=2))
    assert images.shape == (3, 8, 8, 1)
    assert film.shape == (2, 2, 8, 8, 1)
    np.testing.assert_array_equal(images, repeat_pixels(average_pixels(images)))
    np.testing.assert_array_equal(jnp.clip(film[-1], -1, 1), images[:2])
    assert np.abs(film[0]).max() > 1
    DECODED.clear()
    TASK.sample(whole, jax.random.key(2), Asked(num=3, steps=2, batch_size=2))
    assert not DECODED, "a second draw compiles nothing"


class Leaning(Stage):
    """An encoder that is no inverse of its decoder."""

    def encode(self, images):
        mean, log_variance = super().encode(images)
        return 0.8 * mean + 0.3, log_variance


def test_an_image_leads_back_to_the_x0_that_it_was_decoded_from():
    stage = {"autoencoder": Component(Leaning(), {"gain": jnp.asarray(3.0)}, SOURCE)}
    x0 = np.asarray(0.5 * jax.random.normal(jax.random.key(5), (3, 4, 4, 1)))
    images = np.asarray(TASK.decoder(stage, 3)(x0))
    assert np.abs(TASK.x0_of(stage, images) - x0).max() > 0.1
    np.testing.assert_allclose(x0_behind(TASK, stage, images), x0, atol=0.01)
    in_pixels = Diffusion(model=NET, image_shape=(8, 8, 1), schedule=Cosine(), target="v")
    assert x0_behind(in_pixels, {}, images) is images


def test_a_judge_of_images_guides_latents_through_the_decoder():
    """Its gradient is that of the judge of decoded images, by the chain rule (here linear)."""
    judge = Classifier(num_classes=2, stem=4, channels=(8,), num_features=4)
    weights = jax.jit(judge.init)(jax.random.key(3), jnp.zeros((1, 8, 8, 1)))["params"]
    targets = jnp.asarray([0, 1, 1])
    judged = Judged(ClassLogProb(judge), weights, jnp.asarray(1.0), targets)
    shown = TASK.shown_to(components(), judged)
    assert shown.judge == TASK.shown_to(components(30.0), judged).judge
    x0 = 0.3 * jax.random.normal(jax.random.key(4), (3, 4, 4, 1))

    def told(x0):
        return shown.judge(shown.params, x0, targets).sum()

    def of_images(images):
        return judged.judge(weights, images, targets).sum()

    found = jax.jit(jax.grad(told))(x0)
    # Decoding divides by the scale of 0.5 and the gain of 3, and repeats each pixel four times.
    images = repeat_pixels(x0 / 1.5)
    expected = 4 * average_pixels(jax.jit(jax.grad(of_images))(images)) / 1.5
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found).max() > 1e-4


def test_x0_of_images_is_the_mean_of_their_latents():
    images = np.asarray(jax.random.uniform(jax.random.key(1), (3, 8, 8, 1), minval=-1))
    found = TASK.x0_of(components(), images)
    np.testing.assert_allclose(found, 1.5 * average_pixels(jnp.asarray(images)), atol=1e-6)


def test_a_bound_of_latents_is_refused():
    with pytest.raises(UserError, match="latents have none"):
        guide(TASK.process, NET.apply, {}, None, Guidance(percentile=99.0), limit=None)

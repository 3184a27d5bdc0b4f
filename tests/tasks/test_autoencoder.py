"""An autoencoder's figures against SciPy, its latents' prior, and its networks' own gradients."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from diffjax.data.base import ArrayRecords
from diffjax.errors import UserError
from diffjax.models.classifier import Classifier
from diffjax.models.patch_discriminator import PatchDiscriminator
from diffjax.models.vae import VAE
from diffjax.models.vq import VQModel
from diffjax.runs import trained_components
from diffjax.tasks import examined
from diffjax.tasks.autoencoder import PLANE, Autoencoding
from diffjax.tasks.base import Asked, Component, Source, params_of
from diffjax.training.run import RunFolder
from diffjax.training.step import init_state, make_train_step

FORM = (8, 8, 1)
TASK = Autoencoding(model=VAE(sample_size=8, channels=(8,)), image_shape=FORM, likelihood="levels")
VQ = Autoencoding(
    model=VQModel(
        in_channels=1, out_channels=1, block_out_channels=(4,), latent_channels=2,
        num_vq_embeddings=16, norm_num_groups=2, quantiser="ema(revive_below=0.1)",
        mid_block_add_attention=False,
    ),
    image_shape=FORM,
)  # fmt: skip
RNG = np.random.RandomState(0)
PIXELS = RNG.randint(0, 256, (12, *FORM), np.uint8)
IMAGES = (PIXELS / 127.5 - 1).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return jax.jit(TASK.init)(jax.random.key(0), {})


def test_the_bound_is_that_of_scipy(params):
    """In float64, from the latents' moments and the same draws of them."""
    found = TASK.tried(params, IMAGES, seed=3)
    own, std = params["autoencoder"], math.exp(float(params["decoder_noise"]["log_std"]))
    mean, log_variance = TASK.model.apply({"params": own}, jnp.asarray(IMAGES), method="encode")
    m, v = (np.asarray(a, np.float64) for a in (mean, log_variance))
    # KL of two normal laws: its own variance over 1, plus the squared means, less the logarithm.
    kl = (np.exp(v) + m**2 - 1 - v).sum((1, 2, 3)) / 2
    np.testing.assert_allclose(found.nats, kl, rtol=1e-4)
    noise = np.stack([
        np.asarray(jax.random.normal(
            jax.random.fold_in(jax.random.fold_in(jax.random.key(3), i), 6), (1, 1, 2)
        ))
        for i in range(len(IMAGES))
    ])  # fmt: skip
    z = m + np.exp(v / 2) * noise
    decoded = np.asarray(
        TASK.model.apply({"params": own}, jnp.asarray(z, jnp.float32), method="decode"), np.float64
    )
    levels = np.arange(256) / 127.5 - 1
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    low, high = edges[PIXELS], edges[PIXELS.astype(int) + 1]
    mass = scipy.stats.norm.cdf(high, decoded, std) - scipy.stats.norm.cdf(low, decoded, std)
    near = mass > 1e-9  # elsewhere the difference has no digits left
    assert near.mean() > 0.3
    tail = scipy.stats.norm.logpdf(IMAGES, decoded, std) + np.log(2 / 255)
    nll = -np.where(near, np.log(np.where(near, mass, 1)), tail).sum((1, 2, 3))
    np.testing.assert_allclose(found.nll, nll, rtol=0.02)
    figures = TASK.figures(found)
    bits = (found.nll + kl).mean() / (64 * math.log(2))
    assert figures["bits_per_dim"] == pytest.approx(bits, rel=1e-4)


def test_the_plane_grows_to_the_right_and_down(params):
    plane = TASK.plane(params["autoencoder"]).reshape(PLANE, PLANE, *FORM)
    low, high = scipy.special.ndtri(0.5 / PLANE), scipy.special.ndtri(1 - 0.5 / PLANE)
    for (row, column), z in (((0, PLANE - 1), (high, low)), ((PLANE - 1, 0), (low, high))):
        expected = TASK.decoded(params["autoencoder"], jnp.asarray(z)[None, None, None])
        np.testing.assert_allclose(plane[row, column], expected[0], atol=1e-5)


def test_images_are_drawn_from_the_prior(params):
    components = trained_components(TASK, params)
    few, more = (
        TASK.sample(components, jax.random.key(1), Asked(num=num)).images for num in (2, 5)
    )
    np.testing.assert_array_equal(few, more[:2])
    with pytest.raises(UserError, match="draws in one step and knows no guidance"):
        TASK.sample(components, jax.random.key(1), Asked(num=2, guidance=2.0))
    with pytest.raises(UserError, match="codes have no law"):
        VQ.sample({}, jax.random.key(1), Asked(num=2))


def step_of(task, params, frozen=None, steps=1):
    """State and metrics after some steps on the images."""
    components = frozen or {}
    tx = optax.sgd(1e-3)
    step = jax.jit(make_train_step(task.loss(components), tx, 0.9))
    state = init_state(params, tx)
    for _ in range(steps):
        state, metrics = step(
            state, jax.random.key(0), {"image": jnp.asarray(IMAGES)}, params_of(components)
        )
    return state, jax.device_get(metrics)


def test_a_discriminator_counts_from_its_step_on(params):
    task = Autoencoding(
        model=TASK.model, image_shape=FORM, adversarial=0.5, adversarial_start=1,
        discriminator=PatchDiscriminator(n_layers=1, channels=4),
    )  # fmt: skip
    whole = jax.jit(task.init)(jax.random.key(0), {})
    before, _ = step_of(task, whole)
    after, metrics = step_of(task, whole, steps=2)
    same = jax.tree.map(
        lambda a, b: bool((a == b).all()), before.params["discriminator"], whole["discriminator"]
    )
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        after.params["discriminator"]["logit"],
        whole["discriminator"]["logit"],
    )
    assert all(jax.tree.leaves(same))
    assert any(jax.tree.leaves(moved))
    assert metrics["adversarial_weight"] > 0


def test_a_perceptual_distance_is_added_in_nats_per_dimension(params):
    source = Source("somewhere", "classifier", "0" * 64)
    task = Autoencoding(
        model=TASK.model, image_shape=FORM, likelihood="levels", perceptual=0.5, features=source
    )
    judge = Classifier(num_classes=2, stem=4, channels=(8,), num_features=4)
    weights = jax.jit(judge.init)(jax.random.key(2), jnp.zeros((1, *FORM)))["params"]
    features = Component(judge, weights, source)
    _, plain = step_of(TASK, params)
    _, added = step_of(task, params, {"features": features})
    assert added["loss"] > plain["loss"]
    seen = task.tried(params, IMAGES, 0, features)
    assert (seen.errors["perceptual"] > 0).all()
    assert (seen.errors["perceptual"] <= 2).all()


def test_codes_are_learnt_and_counted(tmp_path):
    params = jax.jit(VQ.init)(jax.random.key(0), {})
    state, metrics = step_of(VQ, params)
    assert np.isfinite(metrics["loss"])
    assert state.model_state
    said = []
    records = ArrayRecords(PIXELS, np.zeros(12, int), FORM, 1)
    with RunFolder.create(tmp_path / "run", {}, "") as folder:
        VQ.preview(folder, {}, examined.Exam(records, said.append))(1, state.eval_params)
    line = json.loads((tmp_path / "run" / "held_out.jsonl").read_text())
    assert 1 / 16 <= line["usage"] <= 1
    assert 1 <= line["perplexity"] <= 16
    assert line["latents_bits"] == pytest.approx(4, abs=1e-6)  # log2 16 per pixel of one channel


def test_a_collapsed_codebook_is_said(tmp_path):
    large = Autoencoding(model=VQ.model.clone(num_vq_embeddings=64), image_shape=FORM)
    params = jax.jit(large.init)(jax.random.key(0), {})
    params["autoencoder"]["quant_conv"] = jax.tree.map(
        jnp.zeros_like, params["autoencoder"]["quant_conv"]
    )
    said = []
    records = ArrayRecords(PIXELS, np.zeros(12, int), FORM, 1)
    with RunFolder.create(tmp_path / "run", {}, "") as folder:
        large.preview(folder, {}, examined.Exam(records, said.append))(1, params)
    assert "1.6% of the codes are in use: the codebook has collapsed" in said[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_channels": 0}, "latent_channels must be above 0"),
        ({"channels": (12,)}, "each a multiple of norm_num_groups=8"),
        ({"sample_size": 10, "channels": (8, 8)}, "halves 2 times and cannot begin at 10 pixels"),
    ],
)
def test_a_vae_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        VAE(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": Classifier()}, "is no autoencoder: choose vae"),
        ({"discriminator": Classifier()}, "is no patch_discriminator"),
        ({"perceptual": 0.5}, "give features and a weight above 0, or neither"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(UserError, match=message):
        Autoencoding(**{"model": TASK.model, "image_shape": FORM, **options})

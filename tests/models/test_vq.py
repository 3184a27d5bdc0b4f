"""VQModel: what goes through the codes, what training gets, and what is refused."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.stateful import CODEBOOK, collect, marked, mean_state, merge_state, split_state
from diffjax.models.vq import VQModel
from diffjax.randomness import sample_keys
from diffjax.spaces.base import Autoencoder
from diffjax.spaces.latents import Latents

OPTIONS = {
    "block_out_channels": (4, 4), "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 2, "latent_channels": 2,
    "mid_block_add_attention": False, "num_vq_embeddings": 6, "dtype": "float32",
}  # fmt: skip
IMAGES = jax.random.uniform(jax.random.key(0), (2, 8, 4, 3), minval=-1)
KEYS = sample_keys(jax.random.key(1), 0, 2)
EMA = VQModel(**OPTIONS, quantiser="ema(decay=0.5, revive_below=0.1)")


@pytest.fixture(scope="module")
def params():
    return jax.jit(EMA.init)(jax.random.key(2), IMAGES)["params"]


def test_a_space_of_latents_takes_it_as_a_first_stage(params):
    """Its posterior is as good as certain, so that encoding draws the latents themselves."""
    space = Latents(channels=2, factor=EMA.factor, scale_factor=0.5)

    @jax.jit
    def run(params):
        def apply(*args, **options):
            return EMA.apply({"params": params}, *args, **options)

        stage = Autoencoder(partial(apply, method="encode"), partial(apply, method="decode"))
        z, whole = space.encode(KEYS, IMAGES, stage), apply(IMAGES)
        codes = apply(whole.indices, method="look_up")
        exact = apply(codes, force_not_quantize=True, method="decode")
        return stage.encode(IMAGES), z, space.decode(z, stage), whole, exact

    (mean, log_variance), z, images, whole, exact = run(params)
    assert z.shape[1:] == space.shape(IMAGES.shape[1:]) == (4, 2, 2)
    np.testing.assert_array_equal(log_variance, -30)
    chex.assert_trees_all_close(z, 0.5 * mean, atol=3e-6)
    # Decoding quantises, so that what is near the latents gives the same images.
    chex.assert_trees_all_close(images, whole.images, atol=1e-5)
    chex.assert_trees_all_close(exact, whole.images, atol=1e-5)
    assert whole.indices.shape == (2, 4, 2)


def test_training_moves_the_codebook_and_no_gradient_does(params):
    trained, model_state = split_state(params)
    assert set(model_state) == {CODEBOOK}
    assert "quantize" not in trained

    def loss(trained):
        tree = merge_state(trained, marked(model_state))
        with collect() as moved:
            found = EMA.apply({"params": tree}, IMAGES, train=True, keys=KEYS)
        return jnp.mean((found.images - IMAGES) ** 2) + sum(found.losses), (
            found, mean_state(moved),
        )  # fmt: skip

    gradient, (found, moved) = jax.jit(jax.grad(loss, has_aux=True))(trained)
    chex.assert_trees_all_equal_structs(gradient, trained)
    chex.assert_trees_all_equal_structs(moved, model_state)
    assert float(jnp.abs(gradient["encoder"]["conv_in"]["kernel"]).max()) > 0
    assert found.losses.codebook == 0
    # From hardly any usage the first step's share is the batch's, by the weight of one step.
    counts = np.bincount(np.ravel(found.indices), minlength=6) / found.indices.size
    np.testing.assert_allclose(
        moved[CODEBOOK]["quantize"]["usage"]["counts"], 0.5 * counts, atol=1e-6
    )


def test_finite_scalars_take_the_place_of_a_codebook():
    model = VQModel(
        **{**OPTIONS, "num_vq_embeddings": 15, "vq_embed_dim": 2}, quantiser="fsq(levels=(3,5))"
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    assert "quantize" not in shapes
    found = jax.eval_shape(lambda p: model.apply({"params": p}, IMAGES), shapes)
    assert (found.images.shape, found.indices.shape) == (IMAGES.shape, (2, 4, 2))


def test_computed_in_bfloat16_latents_and_images_are_float32():
    model = VQModel(**{**OPTIONS, "dtype": "bfloat16"})
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)["params"]
    z, _ = jax.eval_shape(lambda p: model.apply({"params": p}, IMAGES, method="encode"), shapes)
    found = jax.eval_shape(lambda p: model.apply({"params": p}, IMAGES), shapes)
    assert {z.dtype, found.images.dtype, jax.tree.leaves(shapes)[0].dtype} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("norm_type='spatial'", "vq has no norm_type 'spatial'"),
        ("num_vq_embeddings=0", "num_vq_embeddings must be above 0"),
        ("block_out_channels=(30,)", "30 channels in 32 groups"),
        ("down_block_types=('DownBlock2D',)", "no down_block_types 'DownBlock2D'"),
        ("quantiser='vqq'", "did you mean 'vq'"),
        ("quantiser='ema(decay=2)'", "decay must be between 0 and 1"),
        ("quantiser='fsq'", "set num_vq_embeddings=1000"),
        ("quantiser='fsq',num_vq_embeddings=1000", "set vq_embed_dim=4"),
        ("quantiser='vq(num_codes=7)'", "set num_vq_embeddings=7"),
    ],
)
def test_refused(options, message):
    with pytest.raises(UserError, match=message):
        spec.build(f"vq({options})", diffjax.models)


def test_inputs_that_do_not_fit_are_refused(params):
    variables, z = {"params": params}, jnp.ones((1, 1, 1, 2))
    for images, message in (
        (IMAGES[..., :1], "images have 1 channels, the autoencoder takes 3"),
        (IMAGES[:, :7], "resize them to multiples of 2"),
    ):
        with pytest.raises(UserError, match=message):
            EMA.apply(variables, images)
    with pytest.raises(UserError, match="latents have 3 channels, the codes have 2"):
        EMA.apply(variables, IMAGES, method="decode")
    with pytest.raises(UserError, match="give keys, one per sample"):
        EMA.apply(variables, z, train=True, method="quantise")

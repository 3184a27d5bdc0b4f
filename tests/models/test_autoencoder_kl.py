"""The first stage: its size, its shapes, what its options change, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stable_diffusion import VAE

from diffjax import models, spec
from diffjax.errors import UserError
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.models.layers import ResnetBlock
from diffjax.models.unet import UNet
from diffjax.schedules.cosine import Cosine
from diffjax.spaces.latents import Latents
from diffjax.tasks.base import Component, Source
from diffjax.tasks.denoisers import AUTOENCODER, decoding
from diffjax.tasks.diffusion import Diffusion

TINY = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 2,
    "latent_channels": 3,
}
IMAGES = jax.random.uniform(jax.random.key(1), (2, 8, 4, 3), minval=-1)


def shapes(model, images):
    given = jax.ShapeDtypeStruct(images, jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), given)["params"]


def random_params(model):
    rng = np.random.default_rng(0)
    tree = shapes(model, (*IMAGES.shape[:3], model.in_channels))
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), tree)


@pytest.fixture(scope="module")
def params():
    return random_params(AutoencoderKL(**TINY))


@pytest.fixture(scope="module")
def encode():
    """The compiled encoder of the tiny network."""
    return jax.jit(lambda params, x: AutoencoderKL(**TINY).apply(params, x, method="encode"))


def test_stable_diffusion_has_as_many_parameters_as_the_published_model():
    tree = shapes(AutoencoderKL(**VAE), (1, 8, 8, 3))
    assert sum(p.size for p in jax.tree.leaves(tree)) == 83_653_863


def test_a_block_without_an_embedding_is_one_whose_embedding_is_nought():
    block = ResnetBlock(4, 2, 2, 1e-6, jax.nn.silu)
    x, emb = jax.random.normal(jax.random.key(0), (1, 4, 4, 4)), jnp.zeros((1, 3))
    variables = block.init(jax.random.key(1), x, emb)
    params = jax.tree.map(lambda p: p + 0.1, variables["params"])
    params["time_emb_proj"]["bias"] = jnp.zeros(4)
    told = block.apply({"params": params}, x, emb)
    untold = {name: part for name, part in params.items() if name != "time_emb_proj"}
    np.testing.assert_array_equal(block.apply({"params": untold}, x, None), told)
    assert untold.keys() == block.init(jax.random.key(1), x, None)["params"].keys()


def test_the_log_variance_is_bounded(params, encode):
    """The bounds are those of the published code: the mean has none."""
    bias = jnp.array([-99.0, 99.0, 5.0, -99.0, 99.0, 5.0])
    far = {**params, "quant_conv": {"kernel": jnp.zeros((1, 1, 6, 6)), "bias": bias}}
    mean, log_variance = encode({"params": far}, IMAGES)
    np.testing.assert_array_equal(mean[0, 0, 0], [-99, 99, 5])
    np.testing.assert_array_equal(log_variance[0, 0, 0], [-30, 20, 5])


def test_without_its_convolution_of_moments_it_is_the_identity(params, encode):
    plain = AutoencoderKL(**TINY, use_quant_conv=False, use_post_quant_conv=False)
    kept = {name: params[name] for name in ("encoder", "decoder")}
    same = {**params, "quant_conv": {"kernel": jnp.eye(6)[None, None], "bias": jnp.zeros(6)}}
    encode_plain = jax.jit(lambda params: plain.apply(params, IMAGES, method="encode"))
    found, wanted = encode_plain({"params": kept}), encode({"params": same}, IMAGES)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert shapes(plain, IMAGES.shape).keys() == kept.keys()


def test_latents_of_a_task_are_scaled_draws_of_the_posterior(params, encode):
    """The network serves as a task's frozen first stage, and its options say the scale."""
    model = AutoencoderKL(**TINY, scaling_factor=0.5, shift_factor=0.25)
    space = Latents(3, model.factor, model.scaling_factor, model.shift_factor)
    source = Source("elsewhere", AUTOENCODER, "0" * 64)
    net = UNet(
        block_out_channels=(4,), norm_num_groups=2, mid_block_type=None, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    task = Diffusion(
        model=net, image_shape=IMAGES.shape[1:], target="v", space=space, autoencoder=source,
        schedule=Cosine(),
    )  # fmt: skip
    stage = {AUTOENCODER: Component(model, params, source)}
    keys = jax.random.split(jax.random.key(0), 2)
    batch = jax.jit(lambda p, x: task.encoded(stage, {AUTOENCODER: p}, keys, {"image": x}))
    x0 = batch(params, IMAGES)["image"]
    assert x0.shape == (2, *task.shape) == (2, 4, 2, 3)
    mean, log_variance = encode({"params": params}, IMAGES)
    drawn = (x0 / 0.5 + 0.25 - mean) / jnp.exp(log_variance / 2)
    assert 0.5 < float(drawn.std()) < 1.5
    assert decoding(space, model)(params, x0).shape == IMAGES.shape


def test_a_dtype_of_16_bits_is_close_and_gives_float32(params, encode):
    model = AutoencoderKL(**TINY, dtype="bfloat16")
    rounded = jax.jit(lambda params: model.apply(params, IMAGES, method="encode"))
    found, wanted = rounded({"params": params}), encode({"params": params}, IMAGES)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, atol=0.05 * float(jnp.abs(other).max()))
        assert not np.array_equal(one, other)


def test_force_upcast_is_float32_unless_a_dtype_is_given(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert AutoencoderKL().compute_dtype == "float32"
    assert AutoencoderKL(force_upcast=False).compute_dtype == "bfloat16"
    assert AutoencoderKL(dtype="float16").compute_dtype == "float16"


def test_specs_build_it():
    text = ", ".join(f"{name}={value!r}" for name, value in TINY.items())
    model = spec.build(f"autoencoder_kl({text})", models)
    assert model == AutoencoderKL(**TINY)
    assert spec.build(spec.render(model), models) == model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"act_fn": "tanh"}, "autoencoder_kl has no act_fn 'tanh'"),
        ({"up_block_types": ("UpBlock2D",) * 2}, "no up_block_types 'UpBlock2D'"),
        ({"dtype": "int4"}, "no dtype 'int4'"),
        ({"layers_per_block": 0}, "layers_per_block must be above 0"),
        ({"latents_std": (1.0, 0.0, 1.0)}, "latents_std must be above 0"),
        ({"block_out_channels": (8,)}, "block_out_channels has 1, down_block_types has 2"),
        ({"norm_num_groups": 3}, "would normalise 4 channels in 3 groups"),
    ],
)
def test_options_that_cannot_be_built(options, message):
    with pytest.raises(UserError, match=message):
        AutoencoderKL(**{**TINY, **options})


@pytest.mark.parametrize(
    ("method", "shape", "message"),
    [
        ("encode", (1, 8, 8, 1), "the autoencoder takes 3: set in_channels=1"),
        ("encode", (1, 8, 7, 3), "8x7.*multiples of 2"),
        ("decode", (1, 4, 4, 4), "decodes 3: set latent_channels=4"),
    ],
)
def test_inputs_that_do_not_fit(params, method, shape, message):
    with pytest.raises(UserError, match=message):
        AutoencoderKL(**TINY).apply({"params": params}, jnp.zeros(shape), method=method)


def test_levels_halve_whole_squares_of_pixels(params):
    """Images of 12 pixels are 3 squares of 4, which cannot be halved."""
    with pytest.raises(UserError, match=r"12x16.*multiples of 8"):
        AutoencoderKL(**TINY, patch_size=4).apply(
            {"params": params}, jnp.zeros((1, 12, 16, 3)), method="encode"
        )

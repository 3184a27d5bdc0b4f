"""Our VQModel and diffusers' give the same latents, codes, losses and images."""

import inspect
import json
import sys
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import randomised

from diffjax.interop import load_vq_model, save_vq_model
from diffjax.interop.diffusers_folder import OURS
from diffjax.interop.torch_names import transpose
from diffjax.models.layers import ACTIVATIONS
from diffjax.models.vq import VQModel

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # diffusers imports it where it is there, matching torch or not
diffusers = pytest.importorskip("diffusers", reason="pip install -e '.[parity]'")

TOLERANCE = 2e-5  # of the output's largest value
BASE = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}
CONFIGS = {
    "one level of the defaults": {},
    "latent diffusion's, narrow": {
        **BASE, "layers_per_block": 2, "block_out_channels": (16, 32, 32), "sample_size": 64,
        "down_block_types": ("DownEncoderBlock2D",) * 3, "num_vq_embeddings": 1024,
        "up_block_types": ("UpDecoderBlock2D",) * 3, "scaling_factor": 1.0,
    },
    "amused's, narrow": {
        **BASE, "latent_channels": 24, "vq_embed_dim": 24, "mid_block_add_attention": False,
        "lookup_from_codebook": True, "force_upcast": True, "num_vq_embeddings": 64,
    },
    "codes wider than latents, attention in every block": {
        **BASE, "vq_embed_dim": 7, "latent_channels": 4, "num_vq_embeddings": 33,
        "down_block_types": ("AttnDownEncoderBlock2D",) * 2, "act_fn": "GELU",
        "up_block_types": ("AttnUpDecoderBlock2D",) * 2, "norm_num_groups": 16,
    },
    "greyscale to colours, codes of one channel": {
        **BASE, "in_channels": 1, "out_channels": 2, "act_fn": "mish", "vq_embed_dim": 1,
        "num_vq_embeddings": 5,
    },
    "fewer channels below": {
        **BASE, "block_out_channels": (24, 8), "act_fn": "relu", "layers_per_block": 3,
        "vq_embed_dim": 2,
    },
}  # fmt: skip
cases = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)


def theirs(options):
    """A VQModel of random weights, whose codes lie where the latents are."""
    model = randomised(diffusers.VQModel(**options))
    rng = np.random.default_rng(3)
    with torch.no_grad():
        z = nhwc(model.encode(nchw(images_for(model))).latents)
    codes = model.quantize.embedding.weight
    noise = rng.normal(size=codes.shape) * z.std((0, 1, 2)) + z.mean((0, 1, 2))
    codes.data = torch.tensor(noise, dtype=torch.float32)
    return model


def images_for(model):
    """Two images of 2 to 1, four latents high."""
    rng = np.random.default_rng(1)
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    shape = (2, 8 * factor, 4 * factor, model.config.in_channels)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def nchw(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def assert_same(ours, theirs):
    largest = np.abs(theirs).max()
    assert largest > 1e-3
    error = np.abs(np.asarray(ours) - theirs).max() / largest
    print("error", error, "of", largest)
    assert error < TOLERANCE


def assert_same_network(model, ours, params):
    """Latents, codes, indices and images of our network and of diffusers' `model`."""
    images, variables = images_for(model), {"params": params}
    with torch.no_grad():
        latents = model.encode(nchw(images)).latents
        codes, _, (_, _, indices) = model.quantize(latents)
        decoded = model.decode(latents).sample
    z, log_variance = ours.apply(variables, jnp.asarray(images), method="encode")
    assert_same(z, nhwc(latents))
    np.testing.assert_array_equal(log_variance, -30)
    found = ours.apply(variables, z, method="quantise")
    np.testing.assert_array_equal(np.ravel(found.indices), indices.numpy())
    assert len(np.unique(found.indices)) > 2
    assert_same(found.codes, nhwc(codes))
    assert_same(ours.apply(variables, z, method="decode"), nhwc(decoded))
    whole = ours.apply(variables, jnp.asarray(images))
    assert_same(whole.images, nhwc(decoded))
    np.testing.assert_array_equal(whole.indices, found.indices)


def assert_same_losses(model, ours, params):
    """The quantiser's, with beta on either term."""
    z = np.random.default_rng(5).normal(size=(2, 8, 4, ours.code_dim)).astype(np.float32)
    for legacy in (False, True):
        model.quantize.legacy = legacy
        with torch.no_grad():
            wanted = model.quantize(nchw(z))[1].item()
        weighted = ours.clone(quantiser=f"vq(legacy={legacy})")
        found = weighted.apply({"params": params}, jnp.asarray(z), method="quantise")
        np.testing.assert_allclose(sum(found.losses), wanted, rtol=TOLERANCE)


@cases
def test_weights_go_both_ways_and_give_the_same_codes_and_images(options, tmp_path):
    model = theirs(options)
    model.save_pretrained(tmp_path / "theirs")
    loaded, params = load_vq_model(tmp_path / "theirs")
    assert_same_network(model, loaded, params)
    assert_same_losses(model, loaded, params)

    save_vq_model(loaded, params, tmp_path / "ours")
    again, info = diffusers.VQModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in inspect.signature(diffusers.VQModel).parameters:
        assert json.dumps(again.config[name]) == json.dumps(model.config[name]), name


def training_loss(ours, params, images):
    found = ours.apply({"params": params}, jnp.asarray(images), train=True)
    return jnp.mean((found.images - images[..., :1]) ** 2) + sum(found.losses)


def test_gradients_of_the_whole_loss_are_theirs(tmp_path):
    """Of the images' squared error and the quantiser's losses, on both sides of the codes."""
    model = theirs({**BASE, "block_out_channels": (16,) * 2, "mid_block_add_attention": False})
    model.save_pretrained(tmp_path)
    loaded, params = load_vq_model(tmp_path)
    images = images_for(model)
    ours = loaded.clone(quantiser="vq(legacy=True)")
    value, gradient = jax.jit(jax.value_and_grad(training_loss, 1), static_argnums=0)(
        ours, params, images
    )
    decoded, commit_loss = model(nchw(images), return_dict=False)
    wanted = torch.mean((decoded - nchw(images[..., :1])) ** 2) + commit_loss
    wanted.backward()
    np.testing.assert_allclose(value, wanted.item(), rtol=TOLERANCE)
    for part, module, layer in (
        ("quantize", "embedding", model.quantize.embedding),
        ("encoder", "conv_in", model.encoder.conv_in),
        ("decoder", "conv_out", model.decoder.conv_out),
    ):
        for name, value in gradient[part][module].items():
            leaf = "bias" if name == "bias" else "weight"
            wanted = getattr(layer, leaf).grad.numpy()
            assert_same(transpose(np.asarray(value), name, back=True), wanted)


@pytest.mark.parametrize("lookup", [False, True])
def test_what_is_not_quantised_is_decoded_as_theirs_is(lookup, tmp_path):
    model = theirs({**BASE, "lookup_from_codebook": lookup})
    model.save_pretrained(tmp_path)
    loaded, params = load_vq_model(tmp_path)
    rng = np.random.default_rng(2)
    z = rng.normal(size=(2, 8, 4, 3)).astype(np.float32)
    if lookup:
        z = rng.integers(0, 256, (2, 8, 4), dtype=np.int32)
    given = torch.tensor(z).ravel() if lookup else nchw(z)
    with torch.no_grad():
        wanted = model.decode(given, force_not_quantize=True, shape=(2, 8, 4, 3)).sample
    found = loaded.apply(
        {"params": params}, jnp.asarray(z), force_not_quantize=True, method="decode"
    )
    assert_same(found, nhwc(wanted))


def test_averaged_codes_are_saved_as_a_codebook(tmp_path):
    model = VQModel(**BASE, quantiser="ema(revive_below=0.1)")
    images = jnp.zeros((1, 8, 8, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    rng = np.random.default_rng(4)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape) / max(leaf.shape[0], 8) ** 0.5),
        params,
    )
    save_vq_model(model, params, tmp_path)
    again = diffusers.VQModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    assert_same_network(again, model, params)


def test_options_and_defaults_are_theirs():
    signature = inspect.signature(diffusers.VQModel).parameters
    ours = {f.name: f.default for f in fields(VQModel) if f.name not in OURS}
    assert ours == {name: parameter.default for name, parameter in signature.items()}


def test_every_option_is_compared():
    defaults = {f.name: f.default for f in fields(VQModel) if f.name not in OURS}
    for name, default in defaults.items():
        if name != "norm_type":  # of one value alone
            assert any(c.get(name, default) != default for c in CONFIGS.values()), name
    assert {c.get("act_fn", "silu").lower() for c in CONFIGS.values()} >= set(ACTIVATIONS) - {
        "swish"
    }

"""Our AutoencoderKL and diffusers' give the same latents and images from the same weights."""

import inspect
import json
import os
import pathlib
import sys
from dataclasses import fields

import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import randomised
from stable_diffusion import VAE

from diffjax.interop import load_autoencoder_kl, save_autoencoder_kl
from diffjax.interop.autoencoder_kl import FORM
from diffjax.interop.diffusers_folder import slots_of
from diffjax.interop.torch_names import transpose
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.models.autoencoder_layers import DOWN, UP
from diffjax.models.layers import ACTIVATIONS

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
    "stable diffusion 1.5": VAE,
    "stable diffusion 3, narrow": {
        **VAE, "block_out_channels": (16, 32, 64, 64), "norm_num_groups": 16, "sample_size": 1024,
        "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609,
        "use_quant_conv": False, "use_post_quant_conv": False,
    },
    "one level, without attention": {
        "block_out_channels": (24,), "norm_num_groups": 3, "mid_block_add_attention": False,
        "down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",),
        "act_fn": "relu",
    },
    "attention in every block, three layers": {
        "down_block_types": ("AttnDownEncoderBlock2D",) * 2,
        "up_block_types": ("AttnUpDecoderBlock2D",) * 2,
        "block_out_channels": (16, 32), "layers_per_block": 3, "norm_num_groups": 16,
        "act_fn": "GELU",
    },
    "greyscale to colours": {
        **BASE, "in_channels": 1, "out_channels": 3, "act_fn": "mish", "use_quant_conv": False,
    },
    "fewer channels below": {
        **BASE, "block_out_channels": (32, 8), "use_post_quant_conv": False, "act_fn": "swish",
        "latent_channels": 1, "sample_size": (32, 64), "force_upcast": False,
    },
    "means and deviations of latents": {
        **BASE, "in_channels": 4, "out_channels": 2, "latent_channels": 2,
        "latents_mean": (0.5, -1.0), "latents_std": (2.0, 1.5), "norm_num_groups": 1,
    },
}  # fmt: skip
cases = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)


def images_for(model):
    """Two images of 2 to 1, four latents high."""
    rng = np.random.default_rng(1)
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    shape = (2, 8 * factor, 4 * factor, model.config.in_channels)
    return rng.uniform(-1, 1, shape).astype(np.float32)


def nchw(x):
    return torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))


def nhwc(x):
    return x.numpy().transpose(0, 2, 3, 1)


def assert_same(ours, theirs):
    largest = np.abs(theirs).max((1, 2, 3))
    assert np.all(largest > 1e-2)
    error = np.abs(np.asarray(ours) - theirs).max((1, 2, 3)) / largest
    print("error", error, "of", largest)
    assert np.all(error < TOLERANCE)


def assert_same_both_ways(model, loaded, params):
    """Means, log-variances and images of our network `loaded` and of diffusers' `model`."""
    images, variables = images_for(model), {"params": params}
    with torch.no_grad():
        posterior = model.encode(nchw(images)).latent_dist
        z = posterior.mean + 0.5 * posterior.std
        decoded = model.decode(z).sample
    mean, log_variance = loaded.apply(variables, jnp.asarray(images), method="encode")
    assert_same(mean, nhwc(posterior.mean))
    assert_same(log_variance, nhwc(posterior.logvar))
    found = loaded.apply(variables, jnp.asarray(nhwc(z)), method="decode")
    assert_same(found, nhwc(decoded))


@cases
def test_weights_go_both_ways_and_give_the_same_latents_and_images(options, tmp_path):
    model = randomised(diffusers.AutoencoderKL(**options))
    model.save_pretrained(tmp_path / "theirs")
    loaded, params = load_autoencoder_kl(tmp_path / "theirs")
    assert_same_both_ways(model, loaded, params)

    save_autoencoder_kl(loaded, params, tmp_path / "ours")
    again, info = diffusers.AutoencoderKL.from_pretrained(
        tmp_path / "ours", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in inspect.signature(diffusers.AutoencoderKL).parameters:
        assert json.dumps(again.config[name]) == json.dumps(model.config[name]), name


def test_the_log_variance_is_bounded_as_theirs_is(tmp_path):
    model = randomised(diffusers.AutoencoderKL(**BASE))
    model.quant_conv.weight.data *= 100
    model.save_pretrained(tmp_path)
    loaded, params = load_autoencoder_kl(tmp_path)
    images = images_for(model)
    with torch.no_grad():
        wanted = nhwc(model.encode(nchw(images)).latent_dist.logvar)
    assert {-30.0, 20.0} <= set(np.unique(wanted))
    _, found = loaded.apply({"params": params}, jnp.asarray(images), method="encode")
    assert_same(found, wanted)


@pytest.mark.parametrize("flat", [True, False], ids=["linear", "convolution"])
def test_old_files_are_read(flat, tmp_path):
    """First releases called attention's layers otherwise, and some made convolutions of them."""
    from safetensors.numpy import load_file, save_file

    model = randomised(diffusers.AutoencoderKL(**BASE))
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for name in [n for n in tensors if "attentions" in n and "group_norm" not in n]:
        module, _, leaf = name.rpartition(".")
        new = next(part for part in old if module.endswith(part))
        value = tensors.pop(name)
        if leaf == "weight" and not flat:
            value = value[:, :, None, None]
        tensors[f"{module.removesuffix(new)}{old[new]}.{leaf}"] = value
    save_file(tensors, path)
    assert_same_both_ways(model, *load_autoencoder_kl(tmp_path))


def test_the_small_stable_diffusion_loads():
    root = os.environ.get("DIFFJAX_DATA_DIR")
    if not root:
        pytest.skip("DIFFJAX_DATA_DIR names no folder with sd_mini/")
    folder = pathlib.Path(root) / "sd_mini" / "sd15" / "vae"
    model = diffusers.AutoencoderKL.from_pretrained(folder)
    assert_same_both_ways(model, *load_autoencoder_kl(folder))


def test_the_published_network_has_its_names_and_shapes():
    """torch's meta device and eval_shape hold no numbers."""
    with torch.device("meta"):
        state = diffusers.AutoencoderKL(**VAE).state_dict()
    wanted = {name: tuple(value.shape) for name, value in state.items()}
    found = {}
    for name, (path, shape) in slots_of(AutoencoderKL(**VAE), FORM).items():
        nothing = np.broadcast_to(np.float32(0), shape)
        found[name] = transpose(nothing, path[-1], back=True).shape
    assert found == wanted
    assert sum(map(np.prod, found.values())) == 83_653_863


def test_options_and_defaults_are_theirs():
    signature = inspect.signature(diffusers.AutoencoderKL).parameters
    ours = {f.name: f.default for f in fields(AutoencoderKL) if f.name in FORM.options}
    assert ours == {name: parameter.default for name, parameter in signature.items()}


def test_every_option_and_block_is_compared():
    defaults = {f.name: f.default for f in fields(AutoencoderKL) if f.name in FORM.options}
    for name, default in defaults.items():
        assert any(c.get(name, default) != default for c in CONFIGS.values()), name
    for name, table in (("down_block_types", DOWN), ("up_block_types", UP)):
        assert {block for c in CONFIGS.values() for block in c[name]} == set(table)
    assert {c.get("act_fn", "silu").lower() for c in CONFIGS.values()} == set(ACTIVATIONS)

"""Our DiT and diffusers' DiTTransformer2DModel give the same images, weights going both ways."""

import inspect
import json
import sys
from dataclasses import fields

import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import randomised

from diffjax.interop import load_dit, save_dit
from diffjax.interop.diffusers_folder import OURS, slots_of
from diffjax.interop.dit import FIXED, FORM
from diffjax.interop.torch_names import transpose
from diffjax.models.dit import Block, DiT
from diffjax.models.spatial_transformer import WIDENINGS

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # diffusers imports it where it is there, matching torch or not
diffusers = pytest.importorskip("diffusers", reason="pip install -e '.[parity]'")

TOLERANCE = 2e-5  # of the output's largest value
BASE = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "sample_size": 8,
    "num_embeds_ada_norm": 5,
}
CONFIGS = {
    "defaults of options": {},
    "learned sigma, as DiT-XL/2": {"out_channels": 8, "num_layers": 3},
    "patches of one pixel, three heads": {
        "patch_size": 1,
        "num_attention_heads": 3,
        "attention_head_dim": 4,
        "sample_size": 5,
    },
    "patches of four pixels, grey images, one layer": {
        "patch_size": 4,
        "in_channels": 1,
        "num_layers": 1,
        "num_attention_heads": 1,
        "attention_head_dim": 20,
    },
    "no bias of queries, keys and values": {
        "attention_bias": False,
        "activation_fn": "gelu",
        "dropout": 0.1,
    },
    "weights in the third norm, another eps": {
        "norm_elementwise_affine": True,
        "norm_eps": 1e-2,
        "activation_fn": "geglu",
        "out_channels": 3,
    },
    "notes, one class": {
        "norm_num_groups": 7,
        "upcast_attention": True,
        "num_embeds_ada_norm": 1,
        "activation_fn": "swiglu",
    },
    "deeper": {"num_layers": 5, "num_attention_heads": 5, "sample_size": 12, "norm_eps": 1e-6},
}
cases = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)


def theirs(options):
    return randomised(diffusers.DiTTransformer2DModel(**{**BASE, **options}))


def inputs(options, size=None):
    """Latents, times and labels of a batch of two; the second is of no class."""
    options = {**BASE, "in_channels": 4, **options}
    size = size or options["sample_size"]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, size, size, options["in_channels"])).astype(np.float32)
    labels = np.array([options["num_embeds_ada_norm"] - 1, options["num_embeds_ada_norm"]])
    return x, np.array([3.25, 700], np.float32), labels


def run_theirs(model, x, t, labels):
    x = torch.tensor(x.transpose(0, 3, 1, 2))
    with torch.no_grad():
        out = model(x, torch.tensor(t), class_labels=torch.tensor(labels)).sample
    return out.numpy().transpose(0, 2, 3, 1)


def assert_same(ours, theirs):
    largest = np.abs(theirs).max((1, 2, 3))
    assert np.all(largest > 1e-2)
    error = np.abs(np.asarray(ours) - theirs).max((1, 2, 3)) / largest
    print("error", error, "of", largest)
    assert np.all(error < TOLERANCE)


@cases
def test_weights_go_both_ways_and_give_the_same_images(options, tmp_path):
    model = theirs(options)
    model.save_pretrained(tmp_path / "theirs")
    loaded, params = load_dit(tmp_path / "theirs")
    args = inputs(options)
    expected = run_theirs(model, *args)
    assert_same(loaded.apply({"params": params}, *map(jnp.asarray, args)), expected)

    save_dit(loaded, params, tmp_path / "ours")
    again, info = diffusers.DiTTransformer2DModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    np.testing.assert_array_equal(run_theirs(again.eval(), *args), expected)
    for name in inspect.signature(diffusers.DiTTransformer2DModel).parameters:
        assert json.dumps(again.config[name]) == json.dumps(model.config[name]), name


@pytest.mark.parametrize("size", [4, 16])
def test_images_of_another_size_have_stretched_positions(size, tmp_path):
    model = theirs({})
    model.save_pretrained(tmp_path)
    loaded, params = load_dit(tmp_path)
    args = inputs({}, size)
    found = loaded.apply({"params": params}, *map(jnp.asarray, args))
    assert_same(found, run_theirs(model, *args))


def test_small_numbers_show_what_norms_add_to_the_variance(tmp_path):
    """Variances of 1e-6 before both norms of a block: another eps would change the output."""
    model = theirs({"norm_eps": 1e-4})
    block = model.transformer_blocks[0]
    for weight in block.attn1.to_out.parameters():
        weight.data *= 1e-3
    model.save_pretrained(tmp_path)
    net, params = load_dit(tmp_path)
    h = 1e-3 * np.random.default_rng(2).normal(size=(2, 6, net.width)).astype(np.float32)
    _, t, labels = inputs({})
    with torch.no_grad():
        told = {"timestep": torch.tensor(t), "class_labels": torch.tensor(labels)}
        wanted = block(torch.tensor(h), **told).numpy()
    ours = Block(8, True, "gelu-approximate", 5, False, net.norm_eps, 0.0, False, "float32")
    weights = {"params": params["transformer_blocks_0"]}
    found, _ = ours.apply(weights, *map(jnp.asarray, (h, t, labels)))
    assert_same(found[..., None], wanted[..., None])


def test_the_published_network_has_its_names_and_shapes():
    """torch's meta device and eval_shape hold no numbers: neither network is in memory."""
    with torch.device("meta"):
        wanted = {
            name: tuple(value.shape)
            for name, value in diffusers.DiTTransformer2DModel(out_channels=8).state_dict().items()
        }
    found = {}
    for torch_name, (path, shape) in slots_of(DiT(out_channels=8), FORM).items():
        nothing = np.broadcast_to(np.float32(0), shape)
        found[torch_name] = transpose(nothing, path[-1], back=True).shape
    assert found == wanted
    assert sum(map(np.prod, found.values())) == 749_826_464


def test_options_and_defaults_are_theirs():
    signature = inspect.signature(diffusers.DiTTransformer2DModel).parameters
    ours = {f.name: f.default for f in fields(DiT) if f.name not in OURS}
    theirs = {name: parameter.default for name, parameter in signature.items()}
    assert theirs == {**ours, "norm_type": FIXED["norm_type"]}


def test_options_of_old_folders_are_theirs():
    """Those that Transformer2DModel has besides, at their defaults."""
    signature = inspect.signature(diffusers.Transformer2DModel).parameters
    old = {name: parameter.default for name, parameter in signature.items()}
    assert {name: old[name] for name in FIXED} == {**FIXED, "norm_type": "layer_norm"}


def test_every_option_is_compared():
    configs = [{**BASE, **options} for options in CONFIGS.values()]
    defaults = {f.name: f.default for f in fields(DiT) if f.name not in OURS}
    for name, default in defaults.items():
        assert any(c.get(name, default) != default for c in configs), name
    activations = {c.get("activation_fn", defaults["activation_fn"]) for c in configs}
    assert activations == set(WIDENINGS)

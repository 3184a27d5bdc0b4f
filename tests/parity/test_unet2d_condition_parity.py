"""Our conditional U-Net and diffusers' give the same images from the same weights, both ways."""

import inspect
import json
import sys
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from random_weights import randomised
from stable_diffusion import SD15, SD21, SDXL, SIZES

from diffjax.interop import load_unet2d_condition, save_unet2d_condition
from diffjax.interop.diffusers_folder import OURS, slots_of
from diffjax.interop.torch_names import transpose
from diffjax.interop.unet2d_condition import FIXED, FORM
from diffjax.models.layers import ACTIVATIONS
from diffjax.models.spatial_transformer import SpatialTransformer
from diffjax.models.unet_condition import ConditionalUNet
from diffjax.models.unet_condition_checks import CHOICES
from diffjax.models.unet_condition_levels import DOWN, UP

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # diffusers imports it where it is there, matching torch or not
diffusers = pytest.importorskip("diffusers", reason="pip install -e '.[parity]'")

TOLERANCE = 2e-5  # of the output's largest value
BASE = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
ATTENDING = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
NARROW = {"sample_size": 8, "cross_attention_dim": 40}
CONFIGS = {
    "text and sizes, numbers for each level": {
        **ATTENDING,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 10,
        "projection_class_embeddings_input_dim": 37,
        "use_linear_projection": True,
        "upcast_attention": True,
        "attention_head_dim": (2, 8),
        "layers_per_block": (2, 1),
        "cross_attention_dim": (12, 12),
        "mid_block_scale_factor": 1.5,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "depths for each layer": {
        **ATTENDING,
        "transformer_layers_per_block": ((2,), (3,)),
        "reverse_transformer_layers_per_block": ((1, 2), (2, 1)),
        "act_fn": "mish",
    },
    "classes, and pixels that attend to tokens alone": {
        **ATTENDING,
        "in_channels": 7,
        "out_channels": 2,
        "num_class_embeds": 5,
        "only_cross_attention": (True, False),
        "resnet_time_scale_shift": "scale_shift",
    },
    "a second time": {"class_embed_type": "timestep", "act_fn": "GELU", "dropout": 0.1},
    "a projected class": {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 11,
        "act_fn": "relu",
        "center_input_sample": True,
        "only_cross_attention": True,
    },
    "a class as it is, one level of odd width, no middle": {
        "block_out_channels": (33,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "norm_num_groups": 11,
        "attention_head_dim": 3,
        "class_embed_type": "identity",
        "time_embedding_dim": 24,
        "mid_block_type": None,
        "act_fn": "swish",
    },
    "stable diffusion 1.5, narrow": {
        **SD15, **NARROW, "block_out_channels": (32, 64, 128, 128), "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, "norm_num_groups": 32,
    },
    "stable diffusion 2.1, narrow": {
        **SD21, **NARROW, "block_out_channels": (32, 64, 128, 128), "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, "norm_num_groups": 32,
        "attention_head_dim": (2, 4, 8, 8),
    },
    "stable diffusion xl, narrow": {
        **SDXL, **NARROW, "block_out_channels": (32, 64, 128), "layers_per_block": 2,
        "attention_head_dim": (2, 4, 8), "norm_num_groups": 32,
        "addition_time_embed_dim": 16, "projection_class_embeddings_input_dim": 136,
    },
}  # fmt: skip
cases = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)


def theirs(options):
    return randomised(diffusers.UNet2DConditionModel(**{**BASE, **options}))


def inputs(options):
    """Latents, times and conditions that suit the options, of a batch of two."""
    options = {**BASE, "in_channels": 4, **options}
    rng = np.random.default_rng(1)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    width = options["cross_attention_dim"]
    width = width[0] if isinstance(width, tuple) else width
    cond = {"tokens": normal(2, 5, width)}
    if "sample_size" not in options:  # pipelines of Stable Diffusion give no mask
        cond["mask"] = np.array([[True] * 5, [True, False, True, True, False]])
    projected = options.get("projection_class_embeddings_input_dim")
    if options.get("addition_embed_type"):
        sizes = 6 if "sample_size" in options else 2
        text = projected - sizes * options["addition_time_embed_dim"]
        cond["text_embeds"] = normal(2, text)
        cond["time_ids"] = rng.integers(0, 1024, (2, sizes)).astype(np.float32)
    match options.get("class_embed_type"):
        case "identity":
            cond["class_labels"] = normal(2, options["time_embedding_dim"])
        case "projection":
            cond["class_labels"] = normal(2, projected)
        case "timestep":
            cond["class_labels"] = np.array([1.5, 400], np.float32)
    if options.get("num_class_embeds"):
        cond["class_labels"] = np.array([1, 4])
    size = 2 ** (len(options["block_out_channels"]) - 1)
    return (
        normal(2, 2 * size, size, options["in_channels"]),
        np.array([3.25, 700], np.float32),
        cond,
    )


def run_theirs(model, x, t, cond):
    given = {name: torch.tensor(value) for name, value in cond.items()}
    tokens, mask, labels = (given.pop(name, None) for name in ("tokens", "mask", "class_labels"))
    with torch.no_grad():
        out = model(
            torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t), tokens, class_labels=labels,
            encoder_attention_mask=mask, added_cond_kwargs=given,
        ).sample  # fmt: skip
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
    loaded, params = load_unet2d_condition(tmp_path / "theirs")
    args = inputs(options)
    found = loaded.apply({"params": params}, *jax.tree.map(jnp.asarray, args))
    assert_same(found, run_theirs(model, *args))

    save_unet2d_condition(loaded, params, tmp_path / "ours")
    again, info = diffusers.UNet2DConditionModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in inspect.signature(diffusers.UNet2DConditionModel).parameters:
        assert json.dumps(again.config[name]) == json.dumps(model.config[name]), name


def test_maps_that_cannot_be_halved(tmp_path):
    """Latents may be of any size: what was rounded up on the way down is cut on the way up."""
    model = theirs({"sample_size": 8})
    model.save_pretrained(tmp_path)
    ours, params = load_unet2d_condition(tmp_path)
    _, t, cond = inputs({"sample_size": 8})
    x = np.random.default_rng(2).normal(size=(2, 5, 7, 4)).astype(np.float32)
    found = jax.jit(ours.apply)({"params": params}, *jax.tree.map(jnp.asarray, (x, t, cond)))
    assert_same(found, run_theirs(model, x, t, cond))


def test_small_numbers_show_what_norms_add_to_the_variance():
    """Variances of 1e-6 and 1e-5 before the group norm and the layer norms."""
    model = diffusers.Transformer2DModel(
        2, 4, in_channels=8, cross_attention_dim=6, norm_num_groups=4
    )
    rng = np.random.default_rng(0)
    params = {}
    for name, weight in model.named_parameters():
        value = rng.normal(size=tuple(weight.shape)).astype(np.float32)
        value *= 1e-3 if name.startswith("proj_in") else 1
        weight.data = torch.tensor(value)
        *modules, leaf = name.replace("_blocks.0", "_blocks_0").split(".")
        path = ".".join(modules).replace("to_out.0", "to_out_0").replace("net.", "net_").split(".")
        kernel = leaf == "weight" and "norm" not in path[-1]
        leaf = "kernel" if kernel else {"weight": "scale"}.get(leaf, leaf)
        params[(*path, leaf)] = jnp.asarray(transpose(value, leaf))
    x = 1e-3 * rng.normal(size=(2, 4, 3, 8)).astype(np.float32)
    tokens = rng.normal(size=(2, 5, 6)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(tokens)).sample
    ours = SpatialTransformer(head_dim=4, groups=4, depth=1)
    variables = {"params": traverse_util.unflatten_dict(params)}
    found = ours.apply(variables, jnp.asarray(x), jnp.asarray(tokens), None)
    assert_same(found, wanted.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", SIZES)
def test_published_networks_have_their_names_and_shapes(name):
    """torch's meta device and eval_shape hold no numbers: neither network is in memory."""
    options, parameters, _ = SIZES[name]
    with torch.device("meta"):
        wanted = {
            name: tuple(value.shape)
            for name, value in diffusers.UNet2DConditionModel(**options).state_dict().items()
        }
    found = {}
    for torch_name, (path, shape) in slots_of(ConditionalUNet(**options), FORM).items():
        nothing = np.broadcast_to(np.float32(0), shape)
        found[torch_name] = transpose(nothing, path[-1], back=True).shape
    assert found == wanted
    assert sum(map(np.prod, found.values())) == parameters


def test_options_and_defaults_are_theirs():
    signature = inspect.signature(diffusers.UNet2DConditionModel).parameters
    ours = {f.name: f.default for f in fields(ConditionalUNet) if f.name not in OURS}
    assert {**ours, **FIXED} == {name: parameter.default for name, parameter in signature.items()}
    assert not ours.keys() & FIXED.keys()


def test_every_option_and_block_is_compared():
    configs = [{**BASE, **options} for options in CONFIGS.values()]
    defaults = {f.name: f.default for f in fields(ConditionalUNet) if f.name not in OURS}
    for name, default in defaults.items():
        assert any(c.get(name, default) != default for c in configs), name
    for name, table in (("down_block_types", DOWN), ("up_block_types", UP)):
        assert {block for c in configs for block in c[name]} == set(table)
    for name, legal in CHOICES.items():
        if name not in OURS:
            assert {c.get(name, defaults[name]) for c in configs} == set(legal), name
    assert {c.get("act_fn", "silu").lower() for c in configs} == set(ACTIVATIONS)

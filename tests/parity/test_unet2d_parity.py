"""Our U-Net and diffusers' UNet2DModel give the same images from the same weights, both ways."""

import inspect
import sys
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import randomised
from safetensors.numpy import load_file, save_file

from diffjax.interop import load_unet2d, save_unet2d
from diffjax.models.layers import ACTIVATIONS
from diffjax.models.unet import UNet
from diffjax.models.unet_checks import CHOICES
from diffjax.models.unet_levels import DOWN, UP

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # diffusers imports it where it is there, matching torch or not
diffusers = pytest.importorskip("diffusers", reason="pip install -e '.[parity]'")

NOT_THEIRS = ("dtype", "remat", "cond_dim", "spans", "parent", "name")
TOLERANCE = 2e-5  # of the output's largest value
BASE = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
}
DDPM = {
    "sample_size": 16,
    "attention_head_dim": None,
    "norm_num_groups": 16,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "dropout": 0.1,
}
NCSNPP = {
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
    "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "time_embedding_type": "fourier",
    "norm_num_groups": None,
    "mid_block_scale_factor": 2**0.5,
    "attention_head_dim": None,
}
CONFIGS = {
    "defaults of options": {},
    "ddpm": DDPM,
    "ddpm, three levels": {
        **DDPM,
        "block_out_channels": (32, 64, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    },
    "one level": {
        "block_out_channels": (32,),
        "down_block_types": ("AttnDownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "in_channels": 1,
        "out_channels": 2,
    },
    "adm": {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "upsample_type": "resnet",
        "attention_head_dim": 16,
        "num_class_embeds": 5,
    },
    "adm, attention normalised in the middle": {
        "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "attn_norm_num_groups": 8,
        "act_fn": "gelu",
    },
    "no middle": {"mid_block_type": None, "act_fn": "relu", "center_input_sample": True},
    "middle without attention": {
        "add_attention": False,
        "act_fn": "Mish",
        "mid_block_scale_factor": 1.5,
        "time_embedding_dim": 48,
    },
    "ncsn++": NCSNPP,
    "ncsn++, attention everywhere": {
        **NCSNPP,
        "block_out_channels": (32, 32),
        "down_block_types": ("AttnSkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "AttnSkipUpBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": 8,
        "norm_num_groups": 8,
        "layers_per_block": 2,
        "class_embed_type": "timestep",
        "act_fn": "swish",
    },
    "skip blocks beside others": {
        **NCSNPP,
        "down_block_types": ("SkipDownBlock2D", "DownBlock2D", "SkipDownBlock2D"),
        "up_block_types": ("UpBlock2D", "SkipUpBlock2D", "SkipUpBlock2D"),
        "norm_num_groups": 32,
        "time_embedding_type": "positional",
    },
    "learned times": {
        "time_embedding_type": "learned",
        "num_train_timesteps": 1000,
        "class_embed_type": "identity",
    },
    "odd width": {
        "block_out_channels": (33, 66),
        "norm_num_groups": 11,
        "attention_head_dim": 33,
        "class_embed_type": "timestep",
    },
}
cases = pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)


def theirs(options):
    return randomised(diffusers.UNet2DModel(**{**BASE, **options}))


def inputs(options):
    """Images, times and labels that suit the options, of a batch of two."""
    options = {**BASE, "in_channels": 3, **options}
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 16, 8, options["in_channels"])).astype(np.float32)
    t = np.array([3, 700], np.float32)
    if options.get("time_embedding_type") == "positional":
        t += 0.25  # times need not be whole
    labels = None
    if options.get("class_embed_type") == "identity":
        labels = rng.normal(size=(2, 4 * options["block_out_channels"][0])).astype(np.float32)
    elif options.get("class_embed_type") or options.get("num_class_embeds"):
        labels = np.array([1, 4])
    return x, t, labels


def run_theirs(model, x, t, labels):
    t = torch.tensor(t)
    t = t.long() if model.config.time_embedding_type == "learned" else t
    labels = None if labels is None else torch.tensor(labels)
    with torch.no_grad():
        out = model(torch.tensor(x.transpose(0, 3, 1, 2)), t, labels).sample
    return out.numpy().transpose(0, 2, 3, 1)


def run_ours(model, params, x, t, labels):
    labels = None if labels is None else jnp.asarray(labels)
    return model.apply({"params": params}, jnp.asarray(x), jnp.asarray(t), labels)


def assert_same(ours, theirs):
    """Sample by sample: where outputs are divided by the noise level, one may be far smaller."""
    largest = np.abs(theirs).max((1, 2, 3))
    assert np.all(largest > 1e-4)
    error = np.abs(np.asarray(ours) - theirs).max((1, 2, 3)) / largest
    print("error", error, "of", largest)
    assert np.all(error < TOLERANCE)


@cases
def test_their_weights_give_their_images(options, tmp_path):
    model = theirs(options)
    model.save_pretrained(tmp_path)
    args = inputs(options)
    assert_same(run_ours(*load_unet2d(tmp_path), *args), run_theirs(model, *args))


@cases
def test_our_weights_give_our_images(options, tmp_path):
    model = UNet(**{**BASE, **options})
    args = inputs(options)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(2)

    def random(shape):
        scale = np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.3
        return jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)

    params = jax.tree.map(lambda leaf: random(leaf.shape), shapes)
    save_unet2d(model, params, tmp_path)
    loaded, info = diffusers.UNet2DModel.from_pretrained(
        tmp_path, output_loading_info=True, low_cpu_mem_usage=False
    )
    assert not any(info.values()), info
    assert_same(run_ours(model, params, *args), run_theirs(loaded.eval(), *args))
    for name in inspect.signature(diffusers.UNet2DModel).parameters:
        saved, meant = loaded.config[name], getattr(model, name)
        assert (tuple(saved) if isinstance(saved, list) else saved) == meant, name


def test_weights_saved_in_bfloat16(tmp_path):
    model = theirs(DDPM).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    args = inputs(DDPM)
    assert_same(run_ours(*load_unet2d(tmp_path), *args), run_theirs(model.float(), *args))


def test_weights_saved_in_several_files(tmp_path):
    model = theirs(DDPM)
    model.save_pretrained(tmp_path, max_shard_size="400KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    args = inputs(DDPM)
    assert_same(run_ours(*load_unet2d(tmp_path), *args), run_theirs(model, *args))


def test_old_names_of_attention_mean_the_same_to_both(tmp_path):
    model = theirs(DDPM)
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, value in load_file(path).items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        tensors[name] = value
    save_file(tensors, path, {"format": "pt"})
    again = diffusers.UNet2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    args = inputs(DDPM)
    expected = run_theirs(model, *args)
    np.testing.assert_array_equal(run_theirs(again, *args), expected)
    assert_same(run_ours(*load_unet2d(tmp_path), *args), expected)


def test_options_and_defaults_are_theirs():
    signature = inspect.signature(diffusers.UNet2DModel).parameters
    ours = {f.name: f.default for f in fields(UNet) if f.name not in NOT_THEIRS}
    assert ours == {name: parameter.default for name, parameter in signature.items()}


def test_every_option_and_block_is_compared():
    configs = [{**BASE, **options} for options in CONFIGS.values()]
    for name, parameter in inspect.signature(diffusers.UNet2DModel).parameters.items():
        assert any(c.get(name, parameter.default) != parameter.default for c in configs), name
    for name, table in (("down_block_types", DOWN), ("up_block_types", UP)):
        assert {block for c in configs for block in c[name]} == set(table)
    for name, legal in CHOICES.items():
        if name not in NOT_THEIRS:
            default = UNet.__dataclass_fields__[name].default
            assert {c.get(name, default) for c in configs} == set(legal), name
    assert {c.get("act_fn", "silu").lower() for c in configs} == set(ACTIVATIONS)

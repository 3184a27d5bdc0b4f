"""Folders of first stages: what is written is read again; test_unet2d has what folders share."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import diffjax as dj
from diffjax.models.autoencoder_kl import AutoencoderKL

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
MODEL = AutoencoderKL(
    block_out_channels=(4, 8),
    down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    norm_num_groups=2,
    shift_factor=0.5,
    latents_mean=(0.0, 1.0, 2.0, 3.0),
    sample_size=(8, 16),
    force_upcast=False,
    dtype="bfloat16",
)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)


@pytest.fixture(scope="module")
def saved(params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    dj.save_autoencoder_kl(MODEL, params, folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "vae")


def test_round_trip_keeps_every_option_and_number(folder, params):
    model, loaded = dj.load_autoencoder_kl(str(folder))
    assert model == MODEL
    chex.assert_trees_all_equal(loaded, params)


def test_names_and_layout_are_torch_s(folder, params):
    tensors = load_file(folder / WEIGHTS)
    kernel = params["decoder"]["up_blocks_0"]["resnets_1"]["conv1"]["kernel"]
    conv = tensors["decoder.up_blocks.0.resnets.1.conv1.weight"]
    np.testing.assert_array_equal(conv[5, 2], kernel[:, :, 2, 5])
    dense = params["encoder"]["mid_block"]["attentions_0"]["to_q"]["kernel"]
    np.testing.assert_array_equal(tensors["encoder.mid_block.attentions.0.to_q.weight"], dense.T)
    for name in (
        "quant_conv.weight",
        "post_quant_conv.bias",
        "encoder.down_blocks.0.downsamplers.0.conv.weight",
        "decoder.up_blocks.0.upsamplers.0.conv.bias",
        "decoder.conv_norm_out.weight",
    ):
        assert name in tensors
    assert not any("time_emb" in name for name in tensors)


@pytest.mark.parametrize("ending", [(), (1, 1)], ids=["linear", "convolution"])
def test_old_names_and_forms_of_attention(folder, params, ending):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / WEIGHTS)
    for name in [n for n in tensors if ".attentions.0.to_" in n]:
        module, _, leaf = name.partition(".attentions.0.")
        new, _, kind = leaf.rpartition(".")
        value = tensors.pop(name)
        value = value.reshape(*value.shape, *ending) if kind == "weight" else value
        tensors[f"{module}.attentions.0.{old[new]}.{kind}"] = value
    save_file(tensors, folder / WEIGHTS)
    assert "encoder.mid_block.attentions.0.query.weight" in load_file(folder / WEIGHTS)
    chex.assert_trees_all_equal(dj.load_autoencoder_kl(folder)[1], params)


def test_a_whole_pipeline_is_refused(folder):
    with pytest.raises(dj.UserError, match=f"whole pipeline: load {folder}"):
        dj.load_autoencoder_kl(folder.parent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "VQModel"}, "is of a VQModel, not a AutoencoderKL"),
        ({"norm_type": "spatial"}, "AutoencoderKL has no option 'norm_type'"),
        ({"latents_mean": "none"}, "latents_mean"),
        ({"down_block_types": ["DownBlock2D"] * 2}, "no down_block_types 'DownBlock2D'"),
    ],
)
def test_config_that_does_not_fit(folder, options, message):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))
    with pytest.raises(dj.UserError, match=message):
        dj.load_autoencoder_kl(folder)

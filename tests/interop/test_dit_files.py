"""Folders of diffusion transformers. What they share with others is tested in test_unet2d."""

import json
import shutil

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file

import diffjax as dj
from diffjax.errors import UserError
from diffjax.interop.diffusers_folder import CONFIG, WEIGHTS, slots_of
from diffjax.interop.dit import FIXED, FORM
from diffjax.models.dit import DiT

MODEL = DiT(
    num_attention_heads=2, attention_head_dim=4, num_layers=2, sample_size=6, patch_size=3,
    out_channels=5, num_embeds_ada_norm=3, attention_bias=False, norm_num_groups=7,
    dtype="bfloat16",
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    flat = {path: rng.normal(size=shape) for path, shape in slots_of(MODEL, FORM).values()}
    return traverse_util.unflatten_dict({k: jnp.asarray(v, jnp.float32) for k, v in flat.items()})


@pytest.fixture(scope="module")
def saved(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("saved")
    dj.save_dit(MODEL, params, folder)
    return folder


@pytest.fixture
def folder(tmp_path, saved):
    return shutil.copytree(saved, tmp_path / "transformer")


def change_config(folder, **options):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def test_round_trip_keeps_every_option_and_number(folder, params):
    model, loaded = dj.load_dit(str(folder))
    assert model == MODEL
    chex.assert_trees_all_equal(loaded, params)


def test_names_and_layout_are_torch_s(folder, params):
    tensors = load_file(folder / WEIGHTS)
    block, ours = "transformer_blocks.1", params["transformer_blocks_1"]
    wide = ours["ff"]["net_0"]["proj"]["kernel"]
    np.testing.assert_array_equal(tensors[f"{block}.ff.net.0.proj.weight"], wide.T)
    table = ours["norm1"]["emb"]["class_embedder"]["embedding_table"]["embedding"]
    name = f"{block}.norm1.emb.class_embedder.embedding_table.weight"
    np.testing.assert_array_equal(tensors[name], table)
    patch = params["pos_embed"]["proj"]["kernel"]
    np.testing.assert_array_equal(tensors["pos_embed.proj.weight"][5, 2], patch[:, :, 2, 5])
    for name in (
        "norm1.emb.timestep_embedder.linear_2.bias", "norm1.linear.weight", "attn1.to_q.weight",
        "attn1.to_out.0.bias", "ff.net.2.weight",
    ):  # fmt: skip
        assert f"transformer_blocks.0.{name}" in tensors
    assert tensors["proj_out_1.weight"].shape == (16, 8)
    assert tensors["proj_out_2.weight"].shape == (3 * 3 * 5, 8)
    assert not [name for name in tensors if "norm3" in name or name.endswith("to_q.bias")]


@pytest.mark.filterwarnings("error")
def test_old_folders_name_another_class_and_more_options(folder, params):
    change_config(folder, _class_name="Transformer2DModel", **FIXED)
    model, loaded = dj.load_dit(folder)
    assert model == MODEL
    chex.assert_trees_all_equal(loaded, params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "of a UNet2DModel, not a DiTTransformer2DModel"),
        ({"norm_type": "ada_norm_single"}, "norm_type='ada_norm_single' is not supported"),
        ({"caption_channels": 4096}, "caption_channels=4096 is not supported: only None is"),
        ({"activation_fn": "linear-silu"}, "activation_fn 'linear-silu'"),
        ({"new_option": 4}, "no option 'new_option'"),
    ],
)
def test_config_that_does_not_fit(folder, options, message):
    change_config(folder, **options)
    with pytest.raises(UserError, match=message) as caught:
        dj.load_dit(folder)
    assert str(folder / CONFIG) in str(caught.value)


def test_a_pipeline_s_folder_is_named(folder):
    with pytest.raises(UserError, match=f"whole pipeline: load {folder}"):
        dj.load_dit(folder.parent)


@pytest.mark.parametrize(
    "options", [{"num_embeds_ada_norm": None}, {"bottleneck_dim": 2}, {"sample_size": (6, 3)}]
)
def test_what_diffusers_lacks_is_not_saved(tmp_path, options):
    with pytest.raises(UserError, match=f"{next(iter(options))}.* cannot be saved"):
        dj.save_dit(MODEL.clone(**options), {}, tmp_path / "model")
    assert not (tmp_path / "model").exists()

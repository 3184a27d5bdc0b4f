"""Folders of conditional U-Nets. What they share with others is tested in test_unet2d."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import diffjax as dj
from diffjax.errors import UserError
from diffjax.interop.diffusers_folder import CONFIG, WEIGHTS, slots_of
from diffjax.interop.unet2d_condition import FIXED, FORM
from diffjax.models.unet_condition import ConditionalUNet

MODEL = ConditionalUNet(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=(1, 2),
    transformer_layers_per_block=((2,), 1),
    reverse_transformer_layers_per_block=(1, (1, 2)),
    norm_num_groups=4,
    cross_attention_dim=6,
    attention_head_dim=(2, 4),
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=11,
    dtype="bfloat16",
)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    tree = {}
    for path, shape in slots_of(MODEL, FORM).values():
        here = tree
        for name in path[:-1]:
            here = here.setdefault(name, {})
        here[path[-1]] = jnp.asarray(rng.normal(size=shape), jnp.float32)
    return tree


@pytest.fixture(scope="module")
def saved(tmp_path_factory, params):
    folder = tmp_path_factory.mktemp("saved")
    dj.save_unet2d_condition(MODEL, params, folder)
    return folder


@pytest.fixture
def folder(tmp_path, saved):
    return shutil.copytree(saved, tmp_path / "unet")


def change_config(folder, **options):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def test_round_trip_keeps_every_option_and_number(folder, params):
    model, loaded = dj.load_unet2d_condition(str(folder))
    assert model == MODEL
    chex.assert_trees_all_equal(loaded, params)
    cond = {
        "tokens": jnp.zeros((1, 3, 6)),
        "text_embeds": jnp.zeros((1, 3)),
        "time_ids": jnp.zeros((1, 2)),
    }
    variables = {"params": loaded}
    out = jax.eval_shape(model.apply, variables, jnp.zeros((1, 4, 4, 4)), jnp.zeros(1), cond)
    chex.assert_shape(out, (1, 4, 4, 4))


def test_names_and_layout_are_torch_s(folder, params):
    tensors = load_file(folder / WEIGHTS)
    block = "down_blocks.0.attentions.0.transformer_blocks.1"
    ours = params["down_blocks_0"]["attentions_0"]["transformer_blocks_1"]
    gate = ours["ff"]["net_0"]["proj"]["kernel"]
    np.testing.assert_array_equal(tensors[f"{block}.ff.net.0.proj.weight"], gate.T)
    out = ours["attn2"]["to_out_0"]["kernel"]
    np.testing.assert_array_equal(tensors[f"{block}.attn2.to_out.0.weight"], out.T)
    assert tensors[f"{block}.attn2.to_k.weight"].shape == (8, 6)
    assert tensors["mid_block.attentions.0.proj_in.weight"].shape == (16, 16, 1, 1)
    for name in ("add_embedding.linear_1.weight", f"{block}.norm3.weight", "conv_norm_out.bias"):
        assert name in tensors
    assert f"{block}.attn1.to_q.bias" not in tensors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "UNet2DModel"}, "of a UNet2DModel, not a UNet2DConditionModel"),
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim=256 is not supported: only None is"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type='text_proj' is not"),
        ({"attention_type": "gated"}, "attention_type='gated' is not.*'default'"),
        ({"class_embeddings_concat": True}, "class_embeddings_concat=True"),
        ({"conv_in_kernel": 5}, "conv_in_kernel=5 is not supported: only 3 is"),
        ({"num_attention_heads": 8}, "num_attention_heads=8"),
        ({"new_option": 4}, "no option 'new_option'"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type 'UNetMidBlock2D'"),
        ({"norm_num_groups": None}, "norm_num_groups is a int"),
    ],
)
def test_config_that_does_not_fit(folder, options, message):
    change_config(folder, **options)
    with pytest.raises(UserError, match=message) as caught:
        dj.load_unet2d_condition(folder)
    assert str(folder / CONFIG) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_options_at_their_only_values_are_passed_over(folder):
    """diffusers writes every option; old releases wrote null for what is false now."""
    change_config(folder, **FIXED)
    assert dj.load_unet2d_condition(folder)[0] == MODEL
    change_config(folder, dual_cross_attention=None, upcast_attention=None)
    assert dj.load_unet2d_condition(folder)[0] == MODEL.clone(upcast_attention=None)


def test_a_pipeline_s_folder_is_named(folder):
    with pytest.raises(UserError, match=f"whole pipeline: load {folder}"):
        dj.load_unet2d_condition(folder.parent)

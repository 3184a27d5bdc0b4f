"""Folders of weights: what is written is read again, and what does not fit is named."""

import json
import shutil

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffjax.errors import UserError
from diffjax.interop import load_unet2d, save_unet2d
from diffjax.models.unet import UNet

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
MODEL = UNet(
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    norm_eps=1e-6,
    sample_size=(8, 4),
    num_class_embeds=3,
    dtype="bfloat16",
)


def random_params(model):
    args = jnp.zeros((1, 8, 8, 3)), jnp.float32(0), jnp.zeros(1, int)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape), s.dtype), shapes)


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)


@pytest.fixture
def folder(tmp_path, params):
    save_unet2d(MODEL, params, tmp_path / "model")
    return tmp_path / "model"


def change_config(folder, **options):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_round_trip_keeps_every_option_and_number(folder, params):
    model, loaded = load_unet2d(str(folder))
    assert model == MODEL
    chex.assert_trees_all_equal(loaded, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(loaded, params)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_names_and_layout_are_torch_s(folder, params):
    tensors = load_file(folder / WEIGHTS)
    kernel = params["down_blocks_0"]["resnets_0"]["conv1"]["kernel"]
    conv = tensors["down_blocks.0.resnets.0.conv1.weight"]
    np.testing.assert_array_equal(conv[5, 2], kernel[:, :, 2, 5])
    dense = params["mid_block"]["attentions_0"]["to_out_0"]["kernel"]
    np.testing.assert_array_equal(tensors["mid_block.attentions.0.to_out.0.weight"], dense.T)
    for name in ("time_embedding.linear_1.bias", "class_embedding.weight", "conv_norm_out.weight"):
        assert name in tensors


def test_saving_again_replaces_the_files(folder, params):
    doubled = jax.tree.map(lambda p: 2 * p, params)
    save_unet2d(MODEL, flax.core.freeze(doubled), folder)
    chex.assert_trees_all_equal(load_unet2d(folder)[1], doubled)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_weights_of_other_precision_become_float32(folder, params, dtype):
    dtype = jnp.dtype(dtype)
    change_weights(folder, lambda t: t.update({k: v.astype(dtype) for k, v in t.items()}))
    _, loaded = load_unet2d(folder)
    rounded = jax.tree.map(lambda p: np.asarray(p).astype(dtype).astype(np.float32), params)
    chex.assert_trees_all_equal(loaded, rounded)
    assert {p.dtype.name for p in jax.tree.leaves(loaded)} == {"float32"}


def test_weights_in_several_files(folder, params):
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    parts = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({k: tensors[k] for k in keys}, folder / file)
    (folder / WEIGHTS).unlink()
    table = {key: file for file, keys in parts.items() for key in keys}
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    chex.assert_trees_all_equal(load_unet2d(folder)[1], params)
    with pytest.raises(UserError, match="several files: choose another folder"):
        save_unet2d(MODEL, params, folder)
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../secret"}}))
    with pytest.raises(UserError, match="must name files beside it"):
        load_unet2d(folder)


def test_old_names_of_attention(folder, params):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        for name in [n for n in tensors if "attentions" in n and "group_norm" not in n]:
            for new, before in old.items():
                if f".{new}." in name:
                    tensors[name.replace(new, before)] = tensors.pop(name)

    change_weights(folder, rename)
    assert "mid_block.attentions.0.query.weight" in load_file(folder / WEIGHTS)
    chex.assert_trees_all_equal(load_unet2d(folder)[1], params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "of a UNet2DConditionModel, not a UNet2DModel"),
        ({"encoder_hid_dim": 4}, "no option 'encoder_hid_dim'"),
        ({"dtype": "float32"}, "no option 'dtype'"),
        ({"name": "x"}, "no option 'name'"),
        ({"layers_per_block": "two"}, "layers_per_block is a int"),
        ({"norm_eps": float("nan")}, "norm_eps=nan"),
        ({"act_fn": "tanh"}, "no act_fn 'tanh'"),
        ({"down_block_types": ["DownBlock2D", "KDownBlock2D"]}, "'KDownBlock2D'"),
        ({"_diffjax_dtype": "int4"}, "dtype 'int4'"),
    ],
)
def test_config_that_does_not_fit(folder, options, message):
    change_config(folder, **options)
    with pytest.raises(UserError, match=message) as caught:
        load_unet2d(folder)
    assert str(folder / CONFIG) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_private_notes_in_a_config_are_passed_over(folder, params):
    change_config(folder, _diffusers_version="0.30.0", _name_or_path="somewhere")
    assert load_unet2d(folder)[0] == MODEL


@pytest.mark.parametrize("off", [None, False])
def test_an_unknown_option_that_is_off_is_passed_over(folder, off):
    """Each release of diffusers writes the options that it has added since, off."""
    change_config(folder, encoder_hid_dim=off)
    with pytest.warns(match="passing over option 'encoder_hid_dim', which is off"):
        assert load_unet2d(folder)[0] == MODEL


def test_the_only_variant_of_the_weights_is_read(folder, params):
    variant = folder / "diffusion_pytorch_model.fp16.safetensors"
    (folder / WEIGHTS).rename(variant)
    chex.assert_trees_all_equal(load_unet2d(folder)[1], params)
    shutil.copy(variant, folder / "diffusion_pytorch_model.ema.safetensors")
    with pytest.raises(UserError, match=r"several variants \(.*ema.*fp16.*\): rename one"):
        load_unet2d(folder)


def test_options_left_out_have_their_defaults(folder):
    config = json.loads((folder / CONFIG).read_text())
    for name in ("sample_size", "_diffjax_dtype", "mid_block_scale_factor"):
        del config[name]
    (folder / CONFIG).write_text(json.dumps(config))
    model, _ = load_unet2d(folder)
    assert (model.sample_size, model.dtype, model.mid_block_scale_factor) == (None, "float32", 1)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv_in.bias"), "lacks conv_in.bias"),
        (
            lambda t: [t.pop(n) for n in list(t) if "mid_block" in n],
            "lacks mid_block.* and 29 more",
        ),
        (put("extra.weight", np.ones(2, np.float32)), "unknown extra.weight"),
        (put("conv_in.bias", np.ones(7, np.float32)), r"conv_in.bias has shape \(7,\)"),
        (put("conv_in.weight", np.ones((8, 3), np.float32)), r"conv_in.weight has shape \(8, 3\)"),
        (put("conv_in.bias", np.ones(8, np.int32)), "conv_in.bias holds I32"),
    ],
)
def test_weights_that_do_not_fit(folder, change, message):
    change_weights(folder, change)
    with pytest.raises(UserError, match=message) as caught:
        load_unet2d(folder)
    assert str(folder / WEIGHTS) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(folder, keep):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:keep])
    with pytest.raises(UserError, match=r"damaged.*copy or download it again"):
        load_unet2d(folder)


def test_header_that_is_noise(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[8:200] = bytes(range(192))
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_unet2d(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_config_that_is_no_json_object(folder, text):
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"JSON|not text in UTF-8"):
        load_unet2d(folder)


def test_missing_files(folder, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*config.json: No such file"):
        load_unet2d(tmp_path / "nowhere")
    folder.rename(tmp_path / "unet")
    with pytest.raises(UserError, match=f"whole pipeline: load {tmp_path / 'unet'}"):
        load_unet2d(tmp_path)
    (tmp_path / "unet" / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"cannot read .*{WEIGHTS}: No such file"):
        load_unet2d(tmp_path / "unet")
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(UserError, match="safe_serialization=True"):
        load_unet2d(tmp_path / "unet")


def test_params_of_another_model_are_not_saved(tmp_path, params):
    with pytest.raises(UserError, match=r"params has unknown params\.conv_in|params lacks"):
        save_unet2d(MODEL, {"params": params}, tmp_path / "a")
    wrong = {**params, "conv_in": {"kernel": jnp.ones((3, 3, 3, 9)), "bias": jnp.ones(8)}}
    with pytest.raises(UserError, match=r"conv_in/kernel has \(3, 3, 3, 9\), not \(3, 3, 3, 8\)"):
        save_unet2d(MODEL, wrong, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_write_that_fails_leaves_the_old_model(folder, params, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        save_unet2d(MODEL, jax.tree.map(jnp.zeros_like, params), folder)
    chex.assert_trees_all_equal(load_unet2d(folder)[1], params)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_a_folder_that_cannot_be_made(tmp_path, params):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder"):
        save_unet2d(MODEL, params, tmp_path / "file" / "model")

"""VQModel to files and back, and what cannot go there."""

import json

import chex
import jax
import numpy as np
import pytest

import diffjax as dj
from diffjax.models.stateful import split_state
from diffjax.models.vq import VQModel

SMALL = {"block_out_channels": (4,), "norm_num_groups": 2, "num_vq_embeddings": 6}


def random_params(model):
    images = jax.ShapeDtypeStruct((1, 4, 4, 3), np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.uniform(0.5, 1, s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("vq"), VQModel(**SMALL)
    params = random_params(model)
    dj.save_vq_model(model, params, folder)
    return folder, model, params


def test_a_saved_model_comes_back(saved):
    folder, model, params = saved
    loaded, found = dj.load_vq_model(folder)
    assert loaded == model.clone(dtype=loaded.dtype)
    chex.assert_trees_all_equal(found, params)


def test_averaged_codes_come_back_as_a_plain_codebook(tmp_path):
    model = VQModel(**SMALL, quantiser="ema")
    params = random_params(model)
    dj.save_vq_model(model, params, tmp_path)
    loaded, found = dj.load_vq_model(tmp_path)
    assert loaded.quantiser == "vq"
    usage = params["codebook"]["quantize"]["usage"]
    wanted = usage["sums"] / usage["counts"][:, None]
    np.testing.assert_allclose(found["quantize"]["embedding"]["embedding"], wanted, rtol=1e-6)
    chex.assert_trees_all_equal(found["encoder"], params["encoder"])


def test_refused(saved, tmp_path):
    folder, _, _ = saved
    scalars = VQModel(
        **{**SMALL, "num_vq_embeddings": 8}, latent_channels=3, quantiser="fsq(levels=(2,2,2))"
    )
    with pytest.raises(dj.UserError, match="cannot be saved: diffusers' VQModel chooses the"):
        dj.save_vq_model(scalars, random_params(scalars), tmp_path)
    averaged = VQModel(**SMALL, quantiser="ema")
    with pytest.raises(dj.UserError, match="params have no codebook"):
        dj.save_vq_model(averaged, split_state(random_params(averaged))[0], tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "norm_type": "spatial"}))
    with pytest.raises(dj.UserError, match="no norm_type 'spatial'"):
        dj.load_vq_model(tmp_path)

"""Extractors: what they are called by, what they take, and what weights they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.metrics.extractors import (
    inception_v3,
    judge_features,
    make_features,
    mobilenet_v2,
)
from diffjax.models.mobilenet import MobileNetV2

LEAVES = {"scale": "weight", "mean": "running_mean", "var": "running_var"}


def torch_tensors():
    """MobileNetV2's tensors as torchvision names and shapes them, of random numbers."""
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(MobileNetV2().init, jax.random.key(0), images)
    rng, tensors = np.random.default_rng(0), {}
    for (_, *modules, leaf), like in traverse_util.flatten_dict(shapes).items():
        value = rng.uniform(0.1, 1, like.shape).astype(np.float32)
        value = value.transpose(3, 2, 0, 1) if leaf == "kernel" else value
        name = "weight" if leaf == "kernel" else LEAVES.get(leaf, leaf)
        tensors[".".join([*modules, name])] = np.ascontiguousarray(value)
    return tensors


def a_judge(shape=(4, 4, 1)):
    def apply(variables, images):
        flat = images.reshape(len(images), -1)
        return flat @ variables["params"]["w"], 2 * flat

    return judge_features(apply, {"w": jnp.ones((16, 3))}, shape)


def test_no_spec_names_them():
    assert not {"inception", "mobilenet"} & set(spec.names(diffjax.models))


def test_the_judge():
    images = np.random.default_rng(0).normal(size=(7, 4, 4, 1)).astype(np.float32)
    judge = a_judge()
    found = make_features(judge, 3)(images)
    np.testing.assert_array_equal(found.rows, 2 * images.reshape(7, 16))
    assert found.extractor == judge == a_judge()
    assert judge != a_judge((2, 8, 1))
    with pytest.raises(UserError, match="of 4x4x3 and the judge knows 4x4x1"):
        make_features(judge, 3)(np.zeros((2, 4, 4, 3), np.float32))


def test_mobilenet(tmp_path):
    """Of a file: what it is called, and what images it takes."""
    tensors = torch_tensors()
    extra = {"classifier.1.weight": np.zeros((2, 1280), np.float32)}
    np.savez(tmp_path / "a.npz", **tensors, **extra)
    net = mobilenet_v2(tmp_path / "a.npz")
    said = net.describe()
    assert len(said.pop("checksum")) == 64
    assert said == {
        "name": "mobilenet_v2",
        "image_size": (224, 224),
        "resize": "bilinear, antialiased where smaller",
    }
    for shape in ((2, 28, 28, 1), (3, 300, 200, 3)):
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        assert jax.eval_shape(net.apply, net.variables, images).shape == (shape[0], 1280)
    with pytest.raises(UserError, match="of 4 channels"):
        make_features(net, 2)(np.zeros((2, 8, 8, 4), np.float32))
    with pytest.raises(UserError, match="it is not of this InceptionV3"):
        inception_v3(tmp_path / "a.npz")

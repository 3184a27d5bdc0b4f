"""LPIPS against the authors' network in torch and against NumPy, and the files that it refuses."""

import functools
import os
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.metrics.lpips import (
    DISTANCES,
    classifier_distance,
    layer_distances,
    load_lpips,
    unit,
)
from diffjax.models.classifier import Classifier
from diffjax.models.stages import ALEXNET, VGG16

SHAPES = {
    "conv1": (11, 11, 3, 64), "conv2": (5, 5, 64, 192), "conv3": (3, 3, 192, 384),
    "conv4": (3, 3, 384, 256), "conv5": (3, 3, 256, 256),
}  # fmt: skip
TORCH_NAMES = (0, 3, 6, 8, 10)


def random_arrays():
    """AlexNet's convolutions, of random numbers that keep activations near 1."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in SHAPES.items():
        deviation = np.sqrt(2 / np.prod(shape[:3]))
        arrays[f"{name}/kernel"] = rng.normal(0, deviation, shape).astype(np.float32)
        arrays[f"{name}/bias"] = rng.normal(0, 0.1, shape[3:]).astype(np.float32)
    return arrays


ARRAYS = random_arrays()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "alex.npz"
    np.savez(path, **ARRAYS)
    return load_lpips(path)


@pytest.fixture(scope="module")
def weights():
    """The folder of real weights that this machine may have."""
    folder = os.environ.get("DIFFJAX_DATA_DIR")
    if not folder or not (pathlib.Path(folder) / "weights" / "lpips_alex.npz").exists():
        pytest.skip("DIFFJAX_DATA_DIR names no folder with weights/lpips_alex.npz")
    return pathlib.Path(folder) / "weights"


def images(count=2, size=31, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(-1, 1, (count, size, size, channels)), jnp.float32)


def test_real_weights_give_the_authors_distances(weights):
    """torch's values in float64: both pairs, and each layer of both."""
    distance, params = load_lpips(weights / "lpips_alex.npz")
    with np.load(weights / "lpips_reference.npz") as reference:
        a, b = reference["image0"], reference["image1"]
        found = jax.jit(distance)(params, a, b)
        np.testing.assert_allclose(found, reference["alex"], atol=1e-6)
        by_layer = jax.jit(lambda p, a, b: layer_distances(ALEXNET, p, a, b))(params, a, b)
        np.testing.assert_allclose(by_layer, reference["alex_layers"], atol=1e-6)


def test_the_shipped_heads_are_those_of_the_real_file(weights, loaded):
    _, real = load_lpips(weights / "lpips_alex.npz")
    for i in range(1, 6):
        np.testing.assert_array_equal(loaded[1][f"lin{i}"]["kernel"], real[f"lin{i}"]["kernel"])


def test_torchvisions_names_are_the_same_network(tmp_path, loaded):
    named = {"classifier.1.weight": np.zeros((2, 3), np.float32)}
    for i, place in enumerate(TORCH_NAMES, 1):
        kernel = ARRAYS[f"conv{i}/kernel"].transpose(3, 2, 0, 1)
        named[f"features.{place}.weight"] = np.ascontiguousarray(kernel)
        named[f"features.{place}.bias"] = ARRAYS[f"conv{i}/bias"]
    np.savez(tmp_path / "torch.npz", **named)
    distance, params = load_lpips(tmp_path / "torch.npz")
    assert distance is loaded[0]
    jax.tree.map(np.testing.assert_array_equal, params, loaded[1])


def test_torchvision_numbers_of_vgg16():
    """features of torchvision's vgg16: convolutions at these places (Simonyan & Zisserman, D)."""
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    expected = {f"conv{i}": f"features.{place}" for i, place in enumerate(places, 1)}
    assert VGG16.torchvision_names() == expected


def test_a_head_in_the_file_is_used(tmp_path, loaded):
    """Heads of 0 but for the third: its layer alone counts."""
    heads = {f"lin{i}/kernel": np.zeros((1, 1, SHAPES[f"conv{i}"][-1], 1)) for i in range(1, 6)}
    heads["lin3/kernel"] += 2
    np.savez(tmp_path / "own.npz", **ARRAYS, **heads)
    _, params = load_lpips(tmp_path / "own.npz")
    found = jax.jit(lambda p: layer_distances(ALEXNET, p, images(), images(seed=1)))(params)
    assert (np.asarray(found)[:, [0, 1, 3, 4]] == 0).all()
    assert (np.asarray(found)[:, 2] > 0.01).all()


def test_distances_are_symmetric_and_of_each_pair_alone(loaded):
    distance, params = loaded
    compiled = jax.jit(distance)
    a, b = images(), images(seed=1)
    found = compiled(params, a, b)
    assert found.shape == (2,)
    assert (found > 0.01).all()
    np.testing.assert_allclose(compiled(params, b, a), found, rtol=1e-5)
    np.testing.assert_allclose(compiled(params, a[::-1], b[::-1]), found[::-1], rtol=1e-5)
    np.testing.assert_array_equal(compiled(params, a, a), 0)


def test_unit_features_have_a_finite_gradient_at_the_zero_vector():
    """The root of the square has none there."""
    x = jnp.asarray([[0.0, 0.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(unit(x)[0, 0], [[0, 0], [0.6, 0.8]], rtol=1e-6)
    slope = jax.grad(lambda x: unit(x)[..., 0].sum())(x)
    assert jnp.isfinite(slope).all()
    np.testing.assert_allclose(slope[0, 0, 1], [0.128, -0.096], rtol=1e-5)  # (1 - u u') / 5


def test_the_gradient_is_finite_where_features_are_zero(loaded):
    """Biases far below 0 make every feature 0."""
    distance, params = loaded
    dead = jax.tree_util.tree_map_with_path(
        lambda path, a: a - 100 if path[-1].key == "bias" else a, params
    )
    gradient = jax.jit(jax.grad(lambda a, p: distance(p, a, images(seed=1)).sum()))
    np.testing.assert_array_equal(gradient(images(), dead), 0)
    assert jnp.isfinite(gradient(images(), params)).all()
    assert float(jnp.abs(gradient(images(), params)).max()) > 1e-5


def shapes_of(name, size):
    network = {"alexnet": ALEXNET, "vgg16": VGG16}[name]
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return [
        layer.shape for layer in jax.eval_shape(network.init_with_output, jax.random.key(0), x)[0]
    ]


@pytest.mark.parametrize(("name", "least"), [("alexnet", 31), ("vgg16", 16)])
def test_the_smallest_image_leaves_one_pixel_of_the_last_layer(name, least):
    assert shapes_of(name, least)[-1][1:3] == (1, 1)
    assert shapes_of(name, least - 1)[-1][1:3] == (0, 0)


def test_images_that_the_network_cannot_take(loaded):
    distance, params = loaded
    for small in ((2, 28, 28, 3), (2, 40, 30, 1)):
        with pytest.raises(UserError, match="too small for LPIPS: its network needs 31"):
            distance(params, jnp.zeros(small), jnp.zeros(small))
    with pytest.raises(UserError, match="1 or 3 channels, not 4"):
        distance(params, images(channels=4), images(channels=4))


def test_grey_images_are_three_equal_channels(loaded):
    distance, params = loaded
    a, b = images(channels=1), images(channels=1, seed=1)
    three = [jnp.repeat(x, 3, -1) for x in (a, b)]
    np.testing.assert_allclose(distance(params, a, b), distance(params, *three), rtol=1e-6)


def lacking(name):
    return {other: array for other, array in ARRAYS.items() if other != name}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (lacking("conv4/bias"), "lacks conv4/bias"),
        ({**ARRAYS, "conv2/bias": np.zeros(3, np.float32)}, r"shape \(3,\), and alexnet needs"),
        ({**ARRAYS, "lin2/kernel": np.zeros(3, np.float32)}, "lin2/kernel has shape"),
        ({**ARRAYS, "conv6/bias": np.zeros(3, np.float32)}, "unknown conv6/bias"),
        ({**ARRAYS, "conv13/kernel": np.zeros(3, np.float32)}, "not of this vgg16"),
        ({**ARRAYS, "conv2/bias": np.zeros(192, np.int32)}, "conv2/bias holds int32"),
        ({"conv1/kernel": np.array([None, {}])}, "Python objects, which can run code"),
    ],
)
def test_files_refused(tmp_path, arrays, message):
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        load_lpips(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "pickled.npz"
    path.write_bytes(pickle.dumps(ARRAYS))
    for wrong, message in ((path, "cannot read"), (tmp_path / "none.npz", "No such file")):
        with pytest.raises(UserError, match=message):
            load_lpips(wrong)
    with pytest.raises(UserError, match="Python pickles, which can run code"):
        load_lpips(tmp_path / "alexnet.ckpt")


def test_each_network_has_a_distance():
    assert set(DISTANCES) == {"alexnet", "vgg16"}


SMALL = Classifier(num_classes=3, stem=4, channels=(4, 8), num_features=5, norm_num_groups=2)


def test_distance_in_a_classifiers_layers():
    """Of the layers that Linen captures by itself: 1 - cosine, twice, over pixels and layers."""
    a, b = images(size=8, channels=1), images(size=8, channels=1, seed=1)
    params = jax.jit(SMALL.init)(jax.random.key(0), a)["params"]
    distance = classifier_distance(SMALL.apply)

    @jax.jit
    def found_and_gradient(x):
        found, pull = jax.vjp(lambda x: distance(params, x, b), x)
        return found, pull(jnp.ones_like(found))[0]

    found, gradient = found_and_gradient(a)

    def layers(x):
        capture = jax.jit(functools.partial(SMALL.apply, capture_intermediates=True))
        _, captured = capture({"params": params}, x)
        of = {name: part["__call__"][0] for name, part in captured["intermediates"].items()
              if isinstance(part, dict)}  # fmt: skip
        # The second norm of each level is its last layer.
        return [
            np.maximum(np.float64(of[name]), 0) for name in ("Conv_0", "GroupNorm_1", "GroupNorm_3")
        ]

    expected = np.zeros(2)
    for x, y in zip(layers(a), layers(b), strict=True):
        norms = np.linalg.norm(x, axis=-1), np.linalg.norm(y, axis=-1)
        inner = (x * y).sum(-1)
        both = norms[0] * norms[1]
        cosine = np.divide(inner, both, out=np.zeros_like(inner), where=both > 0)
        lengths = sum((norm > 0).astype(float) for norm in norms)  # |u|² + |v|²
        expected += (lengths - 2 * cosine).mean((1, 2)) / 3
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (expected > 0.01).all()
    assert jnp.isfinite(gradient).all()
    assert float(jnp.abs(gradient).max()) > 0

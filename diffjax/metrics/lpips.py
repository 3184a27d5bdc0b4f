"""Distances between pairs of images in the layers of a network (Zhang et al. 2018, LPIPS)."""

import functools
import importlib.resources
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.interop import torch_file
from diffjax.interop.torch_names import check_names, transpose
from diffjax.models.layers import Resized
from diffjax.models.stages import ALEXNET, VGG16, Stages
from diffjax.typing import Apply, Images, Params

# (params, images, images) -> the distance of each pair. `params` are arrays: inside jit they are
# data, not constants.
Distance = Callable[[Params, Images, Images], Float[Array, "B"]]

NETWORKS: dict[str, Stages] = {"alexnet": ALEXNET, "vgg16": VGG16}
VGG16_LAST = {"conv13/kernel", "features.28.weight"}  # AlexNet has no such layer
# Mean and deviation of ImageNet's pictures by channel, for images in [-1, 1] (the authors' code).
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10  # added to the norm of a pixel's features (the authors' code)


def load_lpips(path: str | os.PathLike[str]) -> tuple[Distance, Params]:
    """LPIPS 0.1 with the features of a file: (distance, params), used as distance(params, x, y).

    The file is .npz or .safetensors. It holds AlexNet's or VGG16's convolutions under torchvision's
    names (features.0.weight, ...), or as conv1/kernel (height, width, in, out), conv1/bias, ...
    With the second kind of names it may hold heads of its own, lin1/kernel (1, 1, C, 1), ...;
    otherwise the heads are the authors', which come with the package.

    Images are NHWC float32 in [-1, 1] with 1 or 3 channels, of 31 pixels or more for AlexNet and 16
    for VGG16. Distances are 0 for equal images, and no metric: they can break the triangle
    inequality. The function raises UserError for images that the network cannot take; `load_lpips`
    for a file that cannot be read, or is of another network.
    """
    path = Path(path).expanduser()
    tensors = torch_file.read(path, unused=r"classifier\..*")
    name = "vgg16" if VGG16_LAST & set(tensors) else "alexnet"
    arrays = _authors_heads(name) | _by_our_names(NETWORKS[name], tensors)
    _check(path, name, arrays)
    tree = traverse_util.unflatten_dict(arrays, sep="/")
    return DISTANCES[name], jax.tree.map(jnp.asarray, tree)


def layer_distances(
    network: Stages, params: Params, images0: Images, images1: Images
) -> Float[Array, "B L"]:
    """What each compared layer adds to the distance of a pair (Zhang et al. 2018, eq. 1)."""
    pairs = jnp.concatenate([_scaled(network, images0), _scaled(network, images1)])
    # One call for both images of all pairs.
    features: Any = network.apply({"params": _without_heads(params)}, pairs)
    return _squares(features, [params[f"lin{i}"]["kernel"][0, 0, :, 0] for i in range(1, 6)])


def _lpips(network: Stages, params: Params, images0: Images, images1: Images) -> Float[Array, "B"]:
    return layer_distances(network, params, images0, images1).sum(1)


# One function per network, so that a second file of the same network compiles nothing anew.
DISTANCES: dict[str, Distance] = {name: partial(_lpips, net) for name, net in NETWORKS.items()}


def classifier_distance(apply: Apply) -> Distance:
    """A perceptual distance for a machine without weights of AlexNet: in a classifier's layers.

    `apply` is that of `diffjax.models.classifier.Classifier`, and the distance's params are the
    classifier's. The distance is the mean over layers and pixels of |u - v|² for features u and v
    of unit norm: eq. 1 of Zhang et al. 2018 with all weights 1 / L. It lies in [0, 2], since
    features are at least 0. Images are of the shape that the classifier takes. Only distances in
    the same classifier can be compared.
    """

    def distance(params: Params, images0: Images, images1: Images) -> Float[Array, "B"]:
        pairs = jnp.concatenate([images0, images1])
        _, found = apply({"params": params}, pairs, mutable=["intermediates"])
        (features,) = found["intermediates"]["layers"]
        return _squares(features, [jnp.ones(layer.shape[-1]) for layer in features]).mean(1)

    return distance


def _squares(
    features: Sequence[Float[Array, "B _ _ _"]], weights: Sequence[Float[Array, " _"]]
) -> Float[Array, "pairs L"]:
    """The weighted |u - v|² of each layer, the mean over pixels; u is half of the batch, v half."""
    found = []
    for layer, weight in zip(features, weights, strict=True):
        u, v = jnp.split(unit(layer), 2)
        found.append(((u - v) ** 2 * weight).sum(-1).mean((1, 2)))
    return jnp.stack(found, 1)


def unit(x: Resized) -> Resized:
    """Features divided by their norm at each pixel. A zero vector stays 0."""
    square = (x**2).sum(-1, keepdims=True)
    none = square == 0
    # The root's gradient at 0 is infinite, and infinite times 0 is NaN.
    return x / jnp.where(none, 1.0, jnp.sqrt(jnp.where(none, 1.0, square)) + EPS)


def _scaled(network: Stages, images: Images) -> Resized:
    height, width, channels = images.shape[1:]
    if channels not in (1, 3):
        raise UserError(f"LPIPS takes images of 1 or 3 channels, not {channels}")
    if min(height, width) < network.least:
        raise UserError(
            f"images of {height}x{width} are too small for LPIPS: its network needs "
            f"{network.least} pixels or more; enlarge both images, as by repeating pixels",
            option="image_size",
        )
    return (images - jnp.array(SHIFT)) / jnp.array(SCALE)  # grey becomes three channels


def _without_heads(params: Params) -> Params:
    return {name: part for name, part in params.items() if name.startswith("conv")}


def _by_our_names(network: Stages, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under torchvision's names as conv1/kernel and so on; others as they are."""
    renamed = dict(tensors)
    for ours, theirs in network.torchvision_names().items():
        for leaf, name in (("kernel", "weight"), ("bias", "bias")):
            if (value := renamed.pop(f"{theirs}.{name}", None)) is not None:
                renamed[f"{ours}/{leaf}"] = transpose(value, leaf)
    return renamed


def _check(path: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    shapes = _shapes(name)
    check_names(str(path), arrays, shapes, name)
    for array, shape in shapes.items():
        if arrays[array].shape != shape:
            raise UserError(
                f"{path}: {array} has shape {arrays[array].shape}, and {name} needs {shape}"
            )


@functools.cache
def _shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of all arrays of LPIPS in a network."""
    network = NETWORKS[name]
    images = jax.ShapeDtypeStruct((1, network.least, network.least, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    heads = {array: head.shape for array, head in _authors_heads(name).items()}
    return {array: leaf.shape for array, leaf in flat.items()} | heads


def _authors_heads(name: str) -> dict[str, np.ndarray]:
    """The weights of each layer's channels that Zhang et al. fitted to human judgements."""
    file = importlib.resources.files("diffjax.third_party") / "lpips" / "heads.npz"
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as heads:
        return {
            array.removeprefix(f"{name}/"): heads[array]
            for array in heads.files
            if array.startswith(f"{name}/")
        }

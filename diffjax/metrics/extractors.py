"""Networks whose features stand for images where sets of images are compared.

Figures of different features are different figures. The Fréchet distance of the features of
`inception_v3` is the Fréchet Inception distance (Heusel et al. 2017); that of any others is not.
"""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from diffjax.batches import in_batches
from diffjax.checksum import checksum
from diffjax.errors import UserError
from diffjax.interop.torch_file import load_variables
from diffjax.models.inception import InceptionV3
from diffjax.models.layers import Resized
from diffjax.models.mobilenet import MobileNetV2
from diffjax.typing import Apply, Images, Params

MOBILENET_SIZE, INCEPTION_SIZE = 224, 299
# Of ImageNet's pictures in [0, 1], by channel; torchvision's networks learnt from what they scale.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A network with its weights: images in [-1, 1] to features.

    `checksum` is the SHA-256 of the weights, `image_size` the height and width that the network
    sees, `resize` how images come to it. Two are equal where all four are.
    """

    name: str
    checksum: str
    image_size: tuple[int, int]
    resize: str
    apply: Apply = dataclasses.field(compare=False, repr=False)  # (variables, images) -> features
    variables: Params = dataclasses.field(compare=False, repr=False)

    def describe(self) -> dict[str, Any]:
        """What a report says of it."""
        return {name: getattr(self, name) for name in ("name", "checksum", "image_size", "resize")}


@dataclasses.dataclass(frozen=True)
class Features:
    """A row an image, and what they come from."""

    rows: Float[np.ndarray, "N D"]
    extractor: Extractor


def make_features(
    extractor: Extractor, batch_size: int
) -> Callable[[Float[np.ndarray, "N H W C"]], Features]:
    """A compiled function of images in [-1, 1], in batches; any N from 1.

    It raises UserError for images that the extractor cannot take.
    """
    compiled = jax.jit(extractor.apply)

    def features(images: Float[np.ndarray, "N H W C"]) -> Features:
        apply = partial(compiled, extractor.variables)
        return Features(in_batches(apply, images, batch_size), extractor)

    return features


def judge_features(apply: Apply, params: Params, image_shape: tuple[int, int, int]) -> Extractor:
    """The features of a classifier's run, which takes images of its own shape alone.

    `apply({"params": params}, images)` gives logits and features.
    """

    def features(variables: Params, images: Images) -> Float[Array, "B D"]:
        if images.shape[1:] != image_shape:
            given, known = ("x".join(map(str, s)) for s in (images.shape[1:], image_shape))
            raise UserError(f"the images are of {given} and the judge knows {known}")
        return apply(variables, images)[1]

    variables = {"params": params}
    return Extractor("judge", checksum(variables), image_shape[:2], "none", features, variables)


def mobilenet_v2(path: str | os.PathLike[str]) -> Extractor:
    """MobileNetV2's 1280 features (Sandler et al. 2018), of a file with torchvision's weights.

    Raises UserError for a file that cannot be read, or is of another network.
    """

    def features(variables: Params, images: Images) -> Float[Array, "B 1280"]:
        x = _resized(images, MOBILENET_SIZE, antialias=True)
        x = ((x + 1) / 2 - jnp.array(MEAN)) / jnp.array(DEVIATION)
        found: Any = model.apply(variables, x)
        return found

    model = MobileNetV2()
    variables = load_variables(Path(path), model, MOBILENET_SIZE, r"classifier\..*")
    size = (MOBILENET_SIZE, MOBILENET_SIZE)
    resize = "bilinear, antialiased where smaller"
    return Extractor("mobilenet_v2", checksum(variables), size, resize, features, variables)


def inception_v3(path: str | os.PathLike[str]) -> Extractor:
    """The 2048 features of the Fréchet Inception distance, of a file with pytorch-fid's weights.

    Images are resized as by pytorch-fid: between the middles of pixels, and without regard for
    those in between. Raises UserError for a file that cannot be read, or is of another network;
    torchvision's own Inception is one.
    """

    def features(variables: Params, images: Images) -> Float[Array, "B 2048"]:
        found: Any = model.apply(variables, _resized(images, INCEPTION_SIZE, antialias=False))
        return found

    model = InceptionV3()
    variables = load_variables(Path(path), model, INCEPTION_SIZE, r"fc\..*")
    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    resize = "bilinear, not antialiased"
    return Extractor("inception_v3", checksum(variables), size, resize, features, variables)


def _resized(images: Images, size: int, *, antialias: bool) -> Resized:
    """Square, of three channels; grey ones three times over."""
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise UserError(f"images of {channels} channels have no features: 1 or 3 are needed")
    shape = (len(images), size, size, channels)
    x = jax.image.resize(images, shape, "linear", antialias=antialias)
    return jnp.broadcast_to(x, (*shape[:3], 3))

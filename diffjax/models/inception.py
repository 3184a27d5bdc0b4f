"""The Inception-v3 of the Fréchet Inception distance: TensorFlow's graph of 2015-12-05.

It departs from the paper (Szegedy et al. 2016) and from torchvision's in that its average pooling
leaves padding out of the mean, and that the last block has max pooling where the one before it has
average pooling. It is no backbone to train, so it exports no class for a spec to name.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffjax.models.layers import Conv, Resized
from diffjax.typing import Images

EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution with batch norm and ReLU."""

    name: str
    channels: int
    kernel: tuple[int, int]
    stride: int = 1


Pool = Callable[[Images], Resized]
# A tuple of layers is a fork: each sees the same, and what they give is joined.
Step = Layer | tuple[Layer, ...] | Pool
Branches = tuple[tuple[Step, ...], ...]

average: Pool = partial(
    nn.avg_pool, window_shape=(3, 3), padding=((1, 1), (1, 1)), count_include_pad=False
)
largest: Pool = partial(nn.max_pool, window_shape=(3, 3), strides=(1, 1), padding=((1, 1), (1, 1)))
halved: Pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))


class InceptionV3(nn.Module):
    """Images of 75 pixels and more, meant for 299, in [-1, 1] to 2048 features, at least 0.

    Parts have torchvision's names. Batch norms use the statistics they were trained with.
    """

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "B 2048"]:
        x = ConvNorm(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(images)
        x = ConvNorm(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = halved(ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = ConvNorm(80, (1, 1), name="Conv2d_3b_1x1")(x)
        x = halved(ConvNorm(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x))
        for name, branches in MIXED.items():
            x = Mixed(branches, name=name)(x)
        return x.mean((1, 2))


class Mixed(nn.Module):
    """Branches over one input, joined along the channels."""

    branches: Branches

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        return jnp.concatenate([self._follow(branch, x) for branch in self.branches], axis=-1)

    def _follow(self, branch: tuple[Step, ...], x: Images) -> Resized:
        for step in branch:
            if isinstance(step, Layer):
                x = self._layer(step, x)
            elif isinstance(step, tuple):
                x = jnp.concatenate([self._layer(layer, x) for layer in step], axis=-1)
            else:
                x = step(x)
        return x

    def _layer(self, layer: Layer, x: Images) -> Resized:
        padding = "SAME" if layer.stride == 1 else "VALID"
        parts = (layer.channels, layer.kernel, layer.stride, padding)
        return ConvNorm(*parts, name=layer.name)(x)


class ConvNorm(nn.Module):
    """Convolution, batch norm and ReLU; odd kernels."""

    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        conv = Conv(
            self.channels, self.kernel, self.stride, self.padding, use_bias=False, name="conv"
        )
        norm = nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name="bn")
        return nn.relu(norm(conv(x)))


def _grid35(pooled: int) -> Branches:
    """Inception A: on places 8 pixels apart."""
    return (
        (Layer("branch1x1", 64, (1, 1)),),
        (Layer("branch5x5_1", 48, (1, 1)), Layer("branch5x5_2", 64, (5, 5))),
        (
            Layer("branch3x3dbl_1", 64, (1, 1)),
            Layer("branch3x3dbl_2", 96, (3, 3)),
            Layer("branch3x3dbl_3", 96, (3, 3)),
        ),
        (average, Layer("branch_pool", pooled, (1, 1))),
    )


def _to_grid17() -> Branches:
    """Inception B."""
    return (
        (Layer("branch3x3", 384, (3, 3), 2),),
        (
            Layer("branch3x3dbl_1", 64, (1, 1)),
            Layer("branch3x3dbl_2", 96, (3, 3)),
            Layer("branch3x3dbl_3", 96, (3, 3), 2),
        ),
        (halved,),
    )


def _grid17(inner: int) -> Branches:
    """Inception C: on places 16 pixels apart, 7x7 as 1x7 and 7x1."""
    return (
        (Layer("branch1x1", 192, (1, 1)),),
        (
            Layer("branch7x7_1", inner, (1, 1)),
            Layer("branch7x7_2", inner, (1, 7)),
            Layer("branch7x7_3", 192, (7, 1)),
        ),
        (
            Layer("branch7x7dbl_1", inner, (1, 1)),
            Layer("branch7x7dbl_2", inner, (7, 1)),
            Layer("branch7x7dbl_3", inner, (1, 7)),
            Layer("branch7x7dbl_4", inner, (7, 1)),
            Layer("branch7x7dbl_5", 192, (1, 7)),
        ),
        (average, Layer("branch_pool", 192, (1, 1))),
    )


def _to_grid8() -> Branches:
    """Inception D."""
    return (
        (Layer("branch3x3_1", 192, (1, 1)), Layer("branch3x3_2", 320, (3, 3), 2)),
        (
            Layer("branch7x7x3_1", 192, (1, 1)),
            Layer("branch7x7x3_2", 192, (1, 7)),
            Layer("branch7x7x3_3", 192, (7, 1)),
            Layer("branch7x7x3_4", 192, (3, 3), 2),
        ),
        (halved,),
    )


def _grid8(pool: Pool) -> Branches:
    """Inception E: on places 32 pixels apart, the last layers of two branches side by side."""
    return (
        (Layer("branch1x1", 320, (1, 1)),),
        (
            Layer("branch3x3_1", 384, (1, 1)),
            (Layer("branch3x3_2a", 384, (1, 3)), Layer("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Layer("branch3x3dbl_1", 448, (1, 1)),
            Layer("branch3x3dbl_2", 384, (3, 3)),
            (Layer("branch3x3dbl_3a", 384, (1, 3)), Layer("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Layer("branch_pool", 192, (1, 1))),
    )


MIXED: dict[str, Branches] = {
    "Mixed_5b": _grid35(32),
    "Mixed_5c": _grid35(64),
    "Mixed_5d": _grid35(64),
    "Mixed_6a": _to_grid17(),
    "Mixed_6b": _grid17(128),
    "Mixed_6c": _grid17(160),
    "Mixed_6d": _grid17(160),
    "Mixed_6e": _grid17(192),
    "Mixed_7a": _to_grid8(),
    "Mixed_7b": _grid8(average),
    "Mixed_7c": _grid8(largest),
}

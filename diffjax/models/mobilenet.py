"""MobileNetV2 without its classifier: a network whose features compare sets of images.

It is no backbone to train, so it exports no class for a spec to name.
"""

import functools
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffjax.models.layers import Conv, Resized
from diffjax.typing import Images

# Expansion, channels, blocks, stride of the first: Sandler et al. 2018, table 2.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, FEATURES = 32, 1280


class MobileNetV2(nn.Module):
    """Images to 1280 features, the mean over the places of the last layer, at least 0.

    Parts have torchvision's names. Batch norms use the statistics they were trained with.
    """

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "B 1280"]:
        x = ConvNorm(STEM, (3, 3), 2, name="features.0")(images)
        number = 1
        for expansion, channels, blocks, stride in GROUPS:
            for block in range(blocks):
                first = stride if block == 0 else 1
                x = InvertedResidual(expansion, channels, first, name=f"features.{number}")(x)
                number += 1
        return ConvNorm(FEATURES, (1, 1), name=f"features.{number}")(x).mean((1, 2))


class InvertedResidual(nn.Module):
    """Wider, a convolution a channel, narrower again; added to its input where shapes allow."""

    expansion: int
    channels: int
    stride: int

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        inner, h, number = self.expansion * x.shape[-1], x, 0
        if self.expansion > 1:
            h = ConvNorm(inner, (1, 1), name="conv.0")(h)
            number = 1
        h = ConvNorm(inner, (3, 3), self.stride, depthwise=True, name=f"conv.{number}")(h)
        h = Conv(self.channels, (1, 1), use_bias=False, name=f"conv.{number + 1}")(h)
        h = nn.BatchNorm(use_running_average=True, name=f"conv.{number + 2}")(h)
        return x + h if h.shape == x.shape else h


class ConvNorm(nn.Module):
    """Convolution, of each channel alone if `depthwise`, batch norm and ReLU6; odd kernels.

    It pads as torch does, where strided too.
    """

    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        padding = [(k // 2, k // 2) for k in self.kernel]
        conv = partial(Conv, self.channels, self.kernel, self.stride, padding, use_bias=False)
        if self.depthwise:
            alone = {"feature_group_count": self.channels, "conv_general_dilated": convolve_alone}
            x = conv(**alone, name="0")(x)
        else:
            x = conv(name="0")(x)
        return jnp.clip(nn.BatchNorm(use_running_average=True, name="1")(x), 0, 6)


def convolve_alone(
    x: Images,
    w: Float[Array, "k l 1 C"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Resized:
    """Each channel with its own kernel, as Linen's Conv calls it.

    A sum over the taps: 3 to 60 times as fast as XLA's grouped convolution on a CPU.
    """
    sizes = [
        (size + sum(pad) - taps) // stride * stride + 1
        for size, pad, taps, stride in zip(x.shape[1:3], padding, w.shape[:2], strides, strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    terms = [
        x[:, i : i + sizes[0] : strides[0], j : j + sizes[1] : strides[1]] * w[i, j, 0]
        for i, j in itertools.product(range(w.shape[0]), range(w.shape[1]))
    ]
    return functools.reduce(jnp.add, terms)

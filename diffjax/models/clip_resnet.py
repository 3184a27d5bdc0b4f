"""CLIP's modified ResNet (Radford et al. 2021, sec. 2.4, and their code)."""

from functools import partial
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Float

from diffjax.errors import UserError
from diffjax.models.clip_layers import (
    DTYPES,
    Pooled,
    States,
    check_choice,
    check_images,
    check_positive,
)
from diffjax.models.layers import Conv, Resized, attend, average_pixels
from diffjax.typing import Images

__all__ = ["CLIPResNet"]

EPS = 1e-5
EXPANSION = 4  # output channels of a block to the channels within it
STRIDE = 32  # of the whole network


class FrozenBatchNorm(nn.Module):
    """Normalisation by given statistics, which are parameters that no gradient moves."""

    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        starts = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        scale, bias, mean, var = (
            self.param(name, start, x.shape[-1:], jnp.float32) for name, start in starts.items()
        )
        mean, var = lax.stop_gradient((mean, var))
        return ((x - mean) * (scale * lax.rsqrt(var + EPS)) + bias).astype(self.dtype)


class Bottleneck(nn.Module):
    """Three convolutions added to their input; averages 2x2 pixels where it halves images."""

    channels: int
    halve: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = partial(FrozenBatchNorm, self.dtype)
        h = nn.relu(norm(name="bn1")(conv(self.channels, (1, 1), name="conv1")(x)))
        h = nn.relu(norm(name="bn2")(conv(self.channels, (3, 3), padding=1, name="conv2")(h)))
        if self.halve:
            x, h = average_pixels(x), average_pixels(h)
        wide = self.channels * EXPANSION
        h = norm(name="bn3")(conv(wide, (1, 1), name="conv3")(h))
        if self.halve or x.shape[-1] != wide:
            x = norm(name="downsample_1")(conv(wide, (1, 1), name="downsample_0")(x))
        return nn.relu(x + h)


class MeanPool(nn.Module):
    """Attention of the mean of all pixels to the mean and the pixels, each at its position."""

    heads: int
    embed_dim: int
    dtype: str

    @nn.compact
    def __call__(self, x: Images) -> Pooled:
        width = x.shape[-1]
        x = x.reshape(len(x), -1, width)
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        start = nn.initializers.normal(width**-0.5)
        shape = (x.shape[1], width)
        x = x + self.param("positional_embedding", start, shape, jnp.float32).astype(self.dtype)
        dense = partial(nn.Dense, dtype=self.dtype, kernel_init=start)
        q, k, v = (
            dense(width, name=f"{name}_proj")(h)
            .reshape(len(x), -1, self.heads, width // self.heads)
            .swapaxes(1, 2)
            for name, h in (("q", x[:, :1]), ("k", x), ("v", x))
        )
        return dense(self.embed_dim, name="c_proj")(attend(q, k, v).reshape(len(x), width))


class CLIPResNet(nn.Module):
    """Images to states, as OpenAI's ModifiedResNet computes them, with its statistics held.

    `layers` are the blocks of each of the four levels. `pooled` is the embedding itself. Raises
    UserError for an option that cannot be built.
    """

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    num_attention_heads: int = 32
    embed_dim: int = 1024
    image_size: int = 224
    dtype: str = "float32"

    num_channels: ClassVar[int] = 3

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Images) -> States:
        """The states of normalised images of image_size. Raises UserError for other sizes.

        `hidden_states` are the stem and the four levels, `last_hidden_state` the last, all NHWC.
        """
        check_images(self, images)
        conv = partial(Conv, kernel_size=(3, 3), padding=1, use_bias=False, dtype=self.dtype)
        x, half = images.astype(self.dtype), self.width // 2
        for i, (channels, stride) in enumerate(((half, 2), (half, 1), (self.width, 1)), 1):
            x = conv(channels, strides=stride, name=f"conv{i}")(x)
            x = nn.relu(FrozenBatchNorm(self.dtype, name=f"bn{i}")(x))
        states = [average_pixels(x)]
        for i, count in enumerate(self.layers):
            x = states[-1]
            for j in range(count):
                halve = i > 0 and j == 0
                block = Bottleneck(self.width * 2**i, halve, self.dtype, name=f"layer{i + 1}_{j}")
                x = block(x)
            states.append(x)
        pool = MeanPool(self.num_attention_heads, self.embed_dim, self.dtype, name="attnpool")
        return States(tuple(states), states[-1], pool(states[-1]))


def _check(net: CLIPResNet) -> None:
    check_positive(net, "layers", "width", "num_attention_heads", "embed_dim", "image_size")
    check_choice(net, "dtype", DTYPES)
    if net.width % 2:
        raise UserError(f"clip_resnet(width={net.width}): the stem takes half of it: choose even")
    if net.image_size % STRIDE:
        raise UserError(
            f"clip_resnet(image_size={net.image_size}): choose a multiple of {STRIDE}, which the "
            "network divides it by"
        )
    channels = net.width * 2**3 * EXPANSION
    if channels % net.num_attention_heads:
        raise UserError(
            f"clip_resnet(num_attention_heads={net.num_attention_heads}): it does not divide the "
            f"last level's {channels} channels"
        )

"""First stages on images whose maps do not fit the device: tile by tile, without seams.

Tiles that are encoded by themselves leave seams: group normalisation and attention depend on the
whole image. Here every layer is computed on all tiles before the next layer. The maps between
layers lie in the host's memory. A tile is cut with a border of the pixels that its convolution
reads, group statistics are taken over the whole map, and attention compares all pixels.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from diffjax.batches import in_batches
from diffjax.errors import UserError
from diffjax.models.autoencoder_kl import (
    AutoencoderKL,
    check_latents,
    split_moments,
)
from diffjax.models.autoencoder_layers import EPS
from diffjax.models.layers import (
    ACTIVATIONS,
    Activation,
    Conv1x1,
    Conv3x3,
    Dense,
    Downsample,
    Upsample,
    attend,
    patched,
    unpatched,
)
from diffjax.models.unet_checks import check_images
from diffjax.typing import Images, Params

TILE = 128
Host = Float[np.ndarray, "B H W C"]
Map = Float[np.ndarray, "H W C"]  # of one image, between two layers
Other = Float[np.ndarray, "h w c"]  # what a layer makes of a map
Channels = Float[np.ndarray, "C"]


def encode_tiled(
    model: AutoencoderKL, params: Params, images: Images | Host, tile: int = TILE
) -> tuple[Float[np.ndarray, "B h w Z"], Float[np.ndarray, "B h w Z"]]:
    """What `model` encodes, mean and log-variance, of images in [-1, 1] that may be large.

    One image at a time, no layer is computed on more than `tile` x `tile` pixels of its map at
    once, and their border. The device holds the weights, a tile, and attention's keys and values;
    the host holds up to three maps, and five in attention, in float32. Raises UserError as
    `model.encode`, and for a tile that is odd or below 2.
    """
    check_images(model, images, "autoencoder", model.patch_size)
    layers = _layers(model, tile)
    squares = patched(jnp.asarray(images, jnp.float32), model.patch_size)
    moments = [layers.encoder(params, np.asarray(image)) for image in squares]
    mean, log_variance = split_moments(jnp.asarray(np.stack(moments)))
    return np.asarray(mean), np.asarray(log_variance)


def decode_tiled(
    model: AutoencoderKL, params: Params, z: Images | Host, tile: int = TILE
) -> Float[np.ndarray, "B h w c"]:
    """The images that `model` decodes of unscaled latents that may be large.

    Memory and errors are as in `encode_tiled`.
    """
    check_latents(model, z)
    layers = _layers(model, tile)
    made = np.stack([layers.decoder(params, np.asarray(one, np.float32)) for one in z])
    return np.asarray(unpatched(jnp.asarray(made), model.patch_size))


def _layers(model: AutoencoderKL, tile: int) -> "Layers":
    if tile < 2 or tile % 2:
        raise UserError(f"tile={tile}: choose an even number of pixels, 2 or more")
    activation = ACTIVATIONS[model.act_fn.lower()]
    return Layers(tile, model.norm_num_groups, activation, model.compute_dtype)


class Norm(NamedTuple):
    """A group normalisation whose statistics are known: (x - mean) * scale + bias."""

    mean: Channels
    scale: Channels
    bias: Float[Array, "C"]


class Reach(NamedTuple):
    """What a layer reads around a tile, and the height of its output over the height of its map."""

    before: int  # pixels above and left of the tile
    after: int  # pixels below and right of it
    ratio: float = 1

    def scaled(self, pixels: int) -> int:
        """Pixels of the output, for a whole number of them."""
        return int(pixels * self.ratio)


PIXEL, AROUND = Reach(0, 0), Reach(1, 1)
HALVING, DOUBLING = Reach(0, 2, 0.5), Reach(1, 1, 2)


@dataclasses.dataclass(frozen=True)
class Layers:
    """An autoencoder's layers by the names of their parameters, from whole map to whole map."""

    tile: int
    groups: int
    activation: Activation
    dtype: str

    def encoder(self, params: Params, x: Map) -> Other:
        """Moments of the latents of one image."""
        own = params["encoder"]
        x = self.convolve(own["conv_in"], x)
        for i in range(_count(own, "down_blocks")):
            x = self.stack(own[f"down_blocks_{i}"], x)
        x = self.output(own, self.middle(own["mid_block"], x))
        return self.mix(params["quant_conv"], x) if "quant_conv" in params else x

    def decoder(self, params: Params, z: Map) -> Other:
        """The image of one image's latents."""
        own = params["decoder"]
        z = self.mix(params["post_quant_conv"], z) if "post_quant_conv" in params else z
        x = self.middle(own["mid_block"], self.convolve(own["conv_in"], z))
        for i in range(_count(own, "up_blocks")):
            x = self.stack(own[f"up_blocks_{i}"], x)
        return self.output(own, x)

    def stack(self, params: Params, x: Map) -> Other:
        """Residual blocks, each with attention or without, then another resolution or not."""
        for i in range(_count(params, "resnets")):
            x = self.residual(params[f"resnets_{i}"], x)
            if f"attentions_{i}" in params:
                x = self.attention(params[f"attentions_{i}"], x)
        if "downsamplers_0" in params:
            return self.halve(params["downsamplers_0"], x)
        return self.double(params["upsamplers_0"], x) if "upsamplers_0" in params else x

    def middle(self, params: Params, x: Map) -> Map:
        """Attention, or none, between two residual blocks."""
        x = self.residual(params["resnets_0"], x)
        if "attentions_0" in params:
            x = self.attention(params["attentions_0"], x)
        return self.residual(params["resnets_1"], x)

    def residual(self, params: Params, x: Map) -> Other:
        """`layers.ResnetBlock` without an embedding. It overwrites x where channels are equal."""
        norm = self.norm(params["norm1"], x)
        h = self.convolve(params["conv1"], x, norm, self.activation)
        x = self.mix(params["conv_shortcut"], x) if "conv_shortcut" in params else x
        norm = self.norm(params["norm2"], h)
        return self.convolve(params["conv2"], h, norm, self.activation, onto=x)

    def attention(self, params: Params, x: Map) -> Map:
        """`layers.Attention` of one head. It overwrites x.

        As many queries at a time as keep the weights no larger than a tile's map.
        """
        channels, pixels = x.shape[-1], x.shape[0] * x.shape[1]
        norm = self.norm(params["group_norm"], x)
        q, k, v = (
            self.run(Dense, channels, params[name], x, PIXEL, norm).reshape(pixels, channels)
            for name in ("to_q", "to_k", "to_v")
        )
        queries = min(pixels, max(1, self.tile**2 * channels // pixels))
        last, own = Dense(channels, dtype=self.dtype), params["to_out_0"]
        keys, values = jnp.asarray(k, self.dtype), jnp.asarray(v, self.dtype)
        h = in_batches(lambda rows: _attend(last, own, rows, keys, values), q, queries)
        x += h.reshape(x.shape)
        return x

    def output(self, params: Params, x: Map) -> Other:
        """The last norm and convolution."""
        norm = self.norm(params["conv_norm_out"], x)
        return self.convolve(params["conv_out"], x, norm, nn.silu)

    def norm(self, params: Params, x: Map) -> Norm:
        """Statistics over the whole map in float64, a row of pixels at a time."""
        mean = self._group_mean(row for row in x)
        variance = self._group_mean((row - mean) ** 2 for row in x)
        scale = np.asarray(params["scale"]) / np.sqrt(variance + EPS)
        return Norm(mean.astype(np.float32), scale.astype(np.float32), params["bias"])

    def _group_mean(self, rows: Iterator[Float[np.ndarray, "W C"]]) -> Channels:
        """The mean of each channel's group."""
        each = np.stack([row.mean(0, dtype=np.float64) for row in rows]).mean(0)
        return np.repeat(each.reshape(self.groups, -1).mean(1), len(each) // self.groups)

    def convolve(
        self, params: Params, x: Map, norm: Norm | None = None,
        activation: Activation | None = None, onto: Other | None = None,
    ) -> Other:  # fmt: skip
        """A 3x3 convolution, after a norm and an activation where they are given."""
        channels = params["kernel"].shape[-1]
        return self.run(Conv3x3, channels, params, x, AROUND, norm, activation, onto)

    def mix(self, params: Params, x: Map) -> Other:
        """A 1x1 convolution."""
        return self.run(Conv1x1, params["kernel"].shape[-1], params, x, PIXEL)

    def halve(self, params: Params, x: Map) -> Other:
        """Half the height and width, by a convolution that is padded below and right alone."""
        return self.run(partial(Downsample, padding=0), x.shape[-1], params, x, HALVING)

    def double(self, params: Params, x: Map) -> Other:
        """Twice the height and width."""
        return self.run(Upsample, x.shape[-1], params, x, DOUBLING)

    def run(
        self, layer: Callable[..., nn.Module], channels: int, params: Params, x: Map, reach: Reach,
        norm: Norm | None = None, activation: Activation | None = None, onto: Other | None = None,
    ) -> Other:  # fmt: skip
        """A layer of so many output channels on the whole map, one tile at a time.

        The output is added to the map `onto`, where there is one: this saves a map.
        """
        height, width = x.shape[:2]
        tile = _share(height, self.tile), _share(width, self.tile)
        compute = partial(_compute, layer(channels, dtype=self.dtype), activation, reach)
        size = reach.scaled(height), reach.scaled(width), channels
        out = np.zeros(size, np.float32) if onto is None else onto
        for place in itertools.product(range(0, height, tile[0]), range(0, width, tile[1])):
            corner = place[0] - reach.before, place[1] - reach.before
            part = _cut(x, corner, tuple(n + reach.before + reach.after for n in tile))
            found = np.asarray(compute(params, part, norm, corner, (height, width)))
            top, left = map(reach.scaled, place)
            region = out[top : top + found.shape[0], left : left + found.shape[1]]
            region += found[: region.shape[0], : region.shape[1]]
        return out


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compute(
    layer: nn.Module, activation: Activation | None, reach: Reach, params: Params,
    x: Float[Array, "H W C"], norm: Norm | None, corner: tuple[Any, Any], size: tuple[Any, Any],
) -> Float[Array, "h w c"]:  # fmt: skip
    """A layer's output on a tile that was cut with its border, which starts at `corner`.

    Convolutions are padded after the norm: what lies beyond a map of `size` is then 0 again.
    """
    if norm is not None:
        x = (x - norm.mean) * norm.scale + norm.bias
        x = x if activation is None else activation(x)
        rows, columns = (at + jnp.arange(n) for at, n in zip(corner, x.shape[:2], strict=True))
        inside = ((rows >= 0) & (rows < size[0]))[:, None] & (columns >= 0) & (columns < size[1])
        x = jnp.where(inside[..., None], x, 0)
    y = layer.apply({"params": params}, x[None])[0].astype(jnp.float32)
    first = reach.scaled(reach.before)
    rows, columns = (reach.scaled(n - reach.before - reach.after) for n in x.shape[:2])
    return y[first : first + rows, first : first + columns]


@partial(jax.jit, static_argnums=0)
def _attend(
    output: nn.Module, params: Params, q: Float[Array, "T C"], k: Float[Array, "S C"],
    v: Float[Array, "S C"],
) -> Float[Array, "T C"]:  # fmt: skip
    """What some queries attend to among all pixels, through the attention's last layer."""
    h = attend(*(a[None, None] for a in (q.astype(k.dtype), k, v)))[0, 0]
    return jnp.asarray(output.apply({"params": params}, h), jnp.float32)


def _count(params: Params, name: str) -> int:
    """How many parts there are of a name such as `resnets`, counted from 0."""
    return sum(re.fullmatch(rf"{name}_\d+", part) is not None for part in params)


def _share(pixels: int, most: int) -> int:
    """An even number of pixels, up to `most`, that cuts a side into tiles of about one length."""
    share = -(-pixels // -(-pixels // most))
    return share + share % 2 if pixels > most else pixels


def _cut(x: Map, corner: tuple[int, int], size: tuple[int, ...]) -> Other:
    """The part of a map from `corner` on, 0 where it lies beyond the map."""
    ends = [min(at + n, most) for at, n, most in zip(corner, size, x.shape[:2], strict=True)]
    inner = x[max(corner[0], 0) : ends[0], max(corner[1], 0) : ends[1]]
    before = [max(-at, 0) for at in corner]
    pads = [(b, n - b - m) for b, n, m in zip(before, size, inner.shape[:2], strict=True)]
    return np.pad(inner, (*pads, (0, 0)))

"""What the U-Nets are made of: normalisation, residual block, attention, resampling, embeddings.

Submodules carry the names that diffusers gives them, so that weights move by a rule and no table.
`dtype` is what is computed in; parameters, statistics and softmax stay in float32.
"""

import math
import re
from collections.abc import Callable
from functools import partial

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Bool, Float, Num

from diffjax.models.convolution import conv_general_dilated
from diffjax.typing import Images

Activation = Callable[[Array], Array]
Resized = Float[Array, "B h w c"]  # other than what came in, in size or channels
Embedding = Float[Array, "#B E"]  # one row for the batch where all share a time

ACTIVATIONS: dict[str, Activation] = {
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": partial(nn.gelu, approximate=False),
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "relu": nn.relu,
}

# How DDPM's weights start (Ho et al. 2020, their code).
start = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
# A branch that starts at zero leaves its residual the identity (Dhariwal & Nichol 2021, ADM).
zeros = nn.initializers.zeros

Dense = partial(nn.Dense, kernel_init=start)
Conv = partial(nn.Conv, kernel_init=start, conv_general_dilated=conv_general_dilated)
Conv3x3 = partial(Conv, kernel_size=(3, 3), padding=1)
Conv1x1 = partial(Conv, kernel_size=(1, 1))

# Added to the logits of masked places. Not -inf: where all are masked, all are attended to.
MASKED = -1e4
MOST_LOGITS = 2**25  # numbers that attention keeps at once: 128 MiB


def machine_dtype(dtype: str | None) -> str:
    """`dtype`, or without one what this machine is built for."""
    return dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")


class GroupNorm(nn.Module):
    """Group normalisation over H, W and the channels of a group (Wu & He 2018, eq. 1 and 6).

    Two passes: E[x²]-E[x]² cancels when the mean is large. Sums are taken a channel before they
    are taken a group, which keeps channels in vector lanes: on a CPU twice as fast as Linen's.
    """

    groups: int
    eps: float | int = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images) -> Images:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", zeros, (channels,), jnp.float32)
        centred = x.astype(jnp.float32)
        centred = centred - self._group_mean(centred)
        deviation = lax.rsqrt(self._group_mean(centred**2) + self.eps)
        return (centred * (scale * deviation) + bias).astype(self.dtype)

    def _group_mean(self, x: Images) -> Float[Array, "B 1 1 C"]:
        group = x.mean((1, 2)).reshape(len(x), self.groups, -1).mean(-1)
        each = partial(jnp.repeat, repeats=x.shape[-1] // self.groups, axis=1)
        if jax.default_backend() != "cpu":
            return each(group)[:, None, None]
        # Fused into what follows, a CPU would look each channel's group up anew at every pixel; a
        # product with 0 and 1 is kept apart.
        return (group @ each(jnp.eye(self.groups)))[:, None, None]


class Attention(nn.Module):
    """Self-attention over the pixels of an image, added to it (Vaswani et al. 2017, eq. 1).

    `groups` None leaves the normalisation out. The sum is divided by `out_scale`.
    """

    head_dim: int
    groups: int | None
    eps: float | int
    out_scale: float | int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images) -> Images:
        batch, height, width, channels = x.shape
        h = x
        if self.groups is not None:
            h = GroupNorm(self.groups, self.eps, self.dtype, name="group_norm")(h)
        h = h.reshape(batch, height * width, channels)
        q, k, v = (
            Dense(channels, dtype=self.dtype, name=name)(h) for name in ("to_q", "to_k", "to_v")
        )
        h = attend_by_heads(q, k, v, self.head_dim)
        h = Dense(channels, dtype=self.dtype, kernel_init=zeros, name="to_out_0")(h)
        return (x + h.reshape(x.shape)) / self.out_scale


def attend_by_heads(
    q: Float[Array, "B T C"],
    k: Float[Array, "B S C"],
    v: Float[Array, "B S C"],
    head_dim: int,
    mask: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B T C"]:
    """Attention of C // `head_dim` heads, each to its own `head_dim` channels."""
    q, k, v = (a.reshape(*a.shape[:2], -1, head_dim).swapaxes(1, 2) for a in (q, k, v))
    h = attend(q, k, v, mask).swapaxes(1, 2)
    return h.reshape(*h.shape[:2], -1)


def attend(
    q: Float[Array, "B N T D"],
    k: Float[Array, "B N S D"],
    v: Float[Array, "B N S D"],
    mask: Bool[Array, "B S"] | None = None,
    *,
    causal: bool = False,
) -> Float[Array, "B N T D"]:
    """softmax(q kᵀ / √D) v, the softmax in float32. Places where `mask` is False are left out.

    `causal`: place t sees places up to t alone.

    Its sum divides the product with v, T x D numbers, and not the T x T weights (Dao et al. 2022,
    sec. 3.1): forward on a CPU three times as fast with eight heads. Where a GPU has a kernel that
    never keeps the T x T numbers at all (ibid., alg. 1) that is called. Elsewhere, and without
    `causal`, more than MOST_LOGITS of them are computed for some queries after the others (Rabe &
    Staats 2021).
    """
    if mask is None and _has_flash_kernel(q, k):
        flash = partial(jax.nn.dot_product_attention, is_causal=causal, implementation="cudnn")
        return flash(*(a.swapaxes(1, 2) for a in (q, k, v))).swapaxes(1, 2)
    pieces = math.ceil(q.size // q.shape[-1] * k.shape[-2] / MOST_LOGITS)
    if causal or pieces <= 1:
        return _attend_at_once(q, k, v, mask, causal)
    places = q.shape[-2]
    rows = math.ceil(places / pieces)
    padded = jnp.pad(q, ((0, 0), (0, 0), (0, -places % rows), (0, 0)))
    some = jnp.stack(jnp.split(padded, padded.shape[-2] // rows, axis=-2))
    h = lax.map(lambda piece: _attend_at_once(piece, k, v, mask, False), some)
    return jnp.concatenate(h, axis=-2)[..., :places, :]


def _attend_at_once(
    q: Float[Array, "B N T D"],
    k: Float[Array, "B N S D"],
    v: Float[Array, "B N S D"],
    mask: Bool[Array, "B S"] | None,
    causal: bool,
) -> Float[Array, "B N T D"]:
    logits = jnp.matmul(q, k.mT, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if causal:
        past = jnp.tri(q.shape[-2], k.shape[-2], dtype=bool)
        logits = jnp.where(past, logits, -jnp.inf)
    if mask is not None:
        logits = logits + jnp.where(mask, 0, MASKED)[:, None, None]
    # Any constant will do, and the largest overflows nothing: no gradient goes through it.
    weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    return (jnp.matmul(weights.astype(v.dtype), v) / total).astype(v.dtype)


def _has_flash_kernel(q: Float[Array, "B N T D"], k: Float[Array, "B N S D"]) -> bool:
    """Whether cuDNN's attention takes such numbers, and this process computes on a GPU that has it.

    That is from Ampere on, in 16 bits, an even number of places (its gradient takes no other), and
    heads of up to 128 channels, a multiple of 8.
    """
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    return (
        jax.default_backend() == "gpu"
        and bool(re.fullmatch(r"\d+\.\d", capability))  # AMD's read otherwise
        and float(capability) >= 8
        and q.dtype in (jnp.bfloat16, jnp.float16)
        and q.shape[-2] % 2 == k.shape[-2] % 2 == 0
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 128
    )


class ResnetBlock(nn.Module):
    """Two normalised convolutions, the embedding between, added to their input (Ho et al. 2020).

    `emb` comes activated; None leaves it out, as autoencoders do. `scale_shift` modulates the
    second norm instead of adding before it (ADM's AdaGN). `resample` acts on both branches, after
    the first activation. The shortcut is a 1x1 convolution where channels change or `project` is
    set. The sum is divided by `out_scale`.
    """

    channels: int
    groups_in: int
    groups_out: int
    eps: float | int
    activation: Activation
    dropout: float | int = 0.0
    scale_shift: bool = False
    resample: Callable[[Array], Array] | None = None
    project: bool = False
    out_scale: float | int = 1
    train: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images, emb: Embedding | None) -> Resized:
        h = GroupNorm(self.groups_in, self.eps, self.dtype, name="norm1")(x)
        h = self.activation(h)
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = Conv3x3(self.channels, dtype=self.dtype, name="conv1")(h)
        h = self.activation(self._normalise_again(h, emb))
        h = nn.Dropout(self.dropout, deterministic=not self.train)(h)
        h = Conv3x3(self.channels, dtype=self.dtype, kernel_init=zeros, name="conv2")(h)
        if self.project or x.shape[-1] != self.channels:
            x = Conv1x1(self.channels, dtype=self.dtype, name="conv_shortcut")(x)
        return (x + h) / self.out_scale

    @nn.nowrap  # or profiles would show a scope of its own
    def _normalise_again(self, h: Resized, emb: Embedding | None) -> Resized:
        """The second norm, with the embedding where there is one."""
        norm2 = GroupNorm(self.groups_out, self.eps, self.dtype, name="norm2")
        if emb is None:
            return norm2(h)
        width = 2 * self.channels if self.scale_shift else self.channels
        shift = Dense(width, dtype=self.dtype, name="time_emb_proj")(emb)[:, None, None]
        if not self.scale_shift:
            return norm2(h + shift)
        scale, shift = jnp.split(shift, 2, axis=-1)
        return norm2(h) * (1 + scale) + shift


class Downsample(nn.Module):
    """Half the height and width, by a strided 3x3 convolution.

    `padding` 0 pads below and on the right only, 1 all round.
    """

    channels: int
    padding: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        pad = ((self.padding, 1), (self.padding, 1))
        conv = partial(Conv, kernel_size=(3, 3), strides=2, padding=pad)
        return conv(self.channels, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, then a 3x3 convolution.

    `size` is what is kept of the doubled height and width, by default all.
    """

    channels: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images, size: tuple[int, int] | None = None) -> Resized:
        doubled = repeat_pixels(x)
        if size is not None:
            doubled = doubled[:, : size[0], : size[1]]
        return Conv3x3(self.channels, dtype=self.dtype, name="conv")(doubled)


def repeat_pixels(x: Images) -> Resized:
    """Nearest-neighbour upsampling to twice the height and width."""
    batch, height, width, channels = x.shape
    blocks = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return blocks.reshape(batch, 2 * height, 2 * width, channels)


def patched(images: Images, size: int) -> Resized:
    """Squares of `size` x `size` pixels as the channels of one place."""
    return einops.rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=size, q=size)


def unpatched(x: Images, size: int) -> Resized:
    """The inverse of `patched`."""
    return einops.rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=size, q=size)


def average_pixels(x: Images) -> Resized:
    """The mean of each 2x2 block: half the height and width."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def largest_pixels(x: Images) -> Resized:
    """The largest of each 2x2 block: half the height and width.

    Two by two, since the gradient of a maximum over an axis divides by how many numbers are found
    to be it: none, where the compiler has computed them twice and rounded them otherwise.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


def fir_down(x: Images) -> Resized:
    """Half the height and width through the filter [1 3 3 1]/8, zeros outside (NCSN++, app. H)."""
    for axis in (1, 2):
        size, padded = x.shape[axis], _with_border(x, axis)
        taps = [lax.slice_in_dim(padded, k, k + size - 1, 2, axis) for k in range(4)]
        x = (taps[0] + 3 * (taps[1] + taps[2]) + taps[3]) / 8
    return x


def fir_up(x: Images) -> Resized:
    """Twice the height and width through the filter [1 3 3 1]/4, zeros outside (NCSN++, app. H)."""
    for axis in (1, 2):
        size, padded = x.shape[axis], _with_border(x, axis)
        before = lax.slice_in_dim(padded, 0, size, axis=axis)
        after = lax.slice_in_dim(padded, 2, size + 2, axis=axis)
        pairs = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis + 1)
        x = pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return x


def _with_border(x: Images, axis: int) -> Resized:
    """One zero before and one after, along `axis`."""
    return jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)])


class TimeMLP(nn.Module):
    """Two dense layers with an activation between, from features of the time to its embedding."""

    width: int
    dtype: str = "float32"
    activation: Activation = nn.silu

    @nn.compact
    def __call__(self, features: Float[Array, "b F"]) -> Float[Array, "b E"]:
        h = self.activation(Dense(self.width, dtype=self.dtype, name="linear_1")(features))
        return Dense(self.width, dtype=self.dtype, name="linear_2")(h)


def sinusoids(
    t: Float[Array, " b"], width: int, *, shift: int = 0, cos_first: bool = True
) -> Float[Array, "b {width}"]:
    """Sines and cosines of t at periods from 2π to 10000·2π (Vaswani et al. 2017, sec. 3.5).

    `shift` 1 puts the longest period at 10000·2π exactly, as DDPM does, `shift` 0 one step short
    of it. An odd `width` ends in a zero.
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half) / (half - shift))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    parts = [jnp.sin(angles), jnp.cos(angles)]
    features = jnp.concatenate(parts[::-1] if cos_first else parts, axis=-1)
    return jnp.pad(features, ((0, 0), (0, width % 2)))


def look_up(table: nn.Embed, rows: Num[Array, " b"]) -> Float[Array, "b E"]:
    """The rows of a table. One that is not there is NaN, also below 0, which would wrap round."""
    return table(jnp.where(rows < 0, table.num_embeddings, rows))


class FourierFeatures(nn.Module):
    """Sines and cosines of log t at fixed random frequencies (Song et al. 2021, NCSN++)."""

    width: int

    @nn.compact
    def __call__(self, t: Float[Array, " b"]) -> Float[Array, "b F"]:
        # Stored beside the weights, since they are random, and held by stopping their gradient.
        frequencies = self.param("weight", nn.initializers.normal(16.0), (self.width,), jnp.float32)
        angles = 2 * jnp.pi * jnp.log(t)[:, None] * lax.stop_gradient(frequencies)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

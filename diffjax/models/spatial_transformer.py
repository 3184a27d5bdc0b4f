"""Attention of an image's pixels to each other and to tokens, such as a text's (LDM, app. E.2.1).

Submodules carry the names that diffusers gives them.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float

from diffjax.models.layers import (
    ACTIVATIONS,
    Activation,
    Conv1x1,
    Dense,
    GroupNorm,
    attend_by_heads,
    zeros,
)
from diffjax.typing import Images

NORM_EPS = 1e-6  # of the group norm; diffusers fixes it, whatever the residual blocks have
LAYER_EPS = 1e-5

Tokens = Float[Array, "B L E"]
Mask = Bool[Array, "B L"]
Pixels = Float[Array, "B T C"]

# How a feed-forward layer is activated, and whether that gates another layer (Shazeer 2020).
WIDENINGS: dict[str, tuple[Activation, bool]] = {
    "gelu": (ACTIVATIONS["gelu"], False),
    "gelu-approximate": (partial(nn.gelu, approximate=True), False),
    "geglu": (ACTIVATIONS["gelu"], True),
    "swiglu": (nn.silu, True),
}


class SpatialTransformer(nn.Module):
    """`depth` transformer blocks over the pixels of an image, added to it (Rombach et al. 2022).

    The layers before and after are `linear` or 1x1 convolutions: the same product, stored in
    another shape. `cross_only` lets pixels attend to tokens alone, twice in each block.
    """

    head_dim: int
    groups: int
    depth: int
    linear: bool = False
    cross_only: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Images, tokens: Tokens, mask: Mask | None) -> Images:
        batch, height, width, channels = x.shape
        project = partial(Dense if self.linear else Conv1x1, channels, dtype=self.dtype)
        h = GroupNorm(self.groups, NORM_EPS, self.dtype, name="norm")(x)
        h = project(name="proj_in")(h).reshape(batch, height * width, channels)
        for i in range(self.depth):
            block = TransformerBlock(
                self.head_dim, self.cross_only, self.dtype, name=f"transformer_blocks_{i}"
            )
            h = block(h, tokens, mask)
        return x + project(kernel_init=zeros, name="proj_out")(h.reshape(x.shape))


class TransformerBlock(nn.Module):
    """Attention to the pixels, attention to the tokens, a feed-forward layer; each added."""

    head_dim: int
    cross_only: bool
    dtype: str

    @nn.compact
    def __call__(self, h: Pixels, tokens: Tokens, mask: Mask | None) -> Pixels:
        attention = partial(CrossAttention, self.head_dim, self.dtype)
        norm = partial(nn.LayerNorm, epsilon=LAYER_EPS, use_fast_variance=False, dtype=self.dtype)
        normed = norm(name="norm1")(h)
        # diffusers masks no tokens here, also where there are no pixels to attend to.
        h = h + attention(name="attn1")(normed, tokens if self.cross_only else normed, None)
        h = h + attention(name="attn2")(norm(name="norm2")(h), tokens, mask)
        return h + FeedForward(self.dtype, name="ff")(norm(name="norm3")(h))


class CrossAttention(nn.Module):
    """Attention of one sequence to another (Vaswani et al. 2017, eq. 1)."""

    head_dim: int
    dtype: str
    bias: bool = False  # of queries, keys and values

    @nn.compact
    def __call__(
        self, h: Pixels, to: Float[Array, "B S E"], mask: Bool[Array, "B S"] | None
    ) -> Pixels:
        channels = h.shape[-1]
        inward = partial(Dense, channels, use_bias=self.bias, dtype=self.dtype)
        q, k, v = inward(name="to_q")(h), inward(name="to_k")(to), inward(name="to_v")(to)
        h = attend_by_heads(q, k, v, self.head_dim, mask)
        return Dense(channels, dtype=self.dtype, name="to_out_0")(h)


class FeedForward(nn.Module):
    """Four times the width, activated by one of WIDENINGS, and back."""

    dtype: str
    activation: str = "geglu"
    dropout: float | int = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, h: Pixels) -> Pixels:
        wide = Widening(4 * h.shape[-1], self.activation, self.dtype, name="net_0")(h)
        wide = nn.Dropout(self.dropout, deterministic=not self.train)(wide)
        return Dense(h.shape[-1], dtype=self.dtype, name="net_2")(wide)


class Widening(nn.Module):
    """A dense layer, activated; or times another that is. The gate is the second half."""

    width: int
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, h: Pixels) -> Float[Array, "B T D"]:
        activate, gated = WIDENINGS[self.activation]
        h = Dense((1 + gated) * self.width, dtype=self.dtype, name="proj")(h)
        if not gated:
            return activate(h)
        h, gate = jnp.split(h, 2, axis=-1)
        return h * activate(gate)

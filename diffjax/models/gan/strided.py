"""A convolution of 4x4 at stride 2 as a plain matrix product.

What a penalty on slopes needs is the gradient of a gradient. On a CPU that takes several times as
long of XLA's own strided convolutions, and longer still of diffjax.models.convolution's.
"""

import einops
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from diffjax.models.layers import Resized, start, zeros
from diffjax.typing import Images

KERNEL = (4, 4)


class Halved(nn.Module):
    """Half the height and width, rounded down, in `channels`; one pixel of zeros around."""

    channels: int

    @nn.compact
    def __call__(self, x: Images) -> Resized:
        kernel = self.param("kernel", start, (*KERNEL, x.shape[-1], self.channels))
        bias = self.param("bias", zeros, (self.channels,))
        return halve(x, kernel) + bias


def halve(x: Images, kernel: Float[Array, "4 4 C D"]) -> Resized:
    """A convolution of 2x2 over blocks of 2x2 pixels: one product, of what lies under each."""
    # Of an odd size no window reaches the zeros at the end.
    padded = jnp.pad(x, ((0, 0), *((1, 1 - size % 2) for size in x.shape[1:3]), (0, 0)))
    blocks = einops.rearrange(padded, "b (h p) (w q) c -> b h w (p q c)", p=2, q=2)
    under = [blocks[:, i : i - 1 or None, j : j - 1 or None] for i in (0, 1) for j in (0, 1)]
    weights = einops.rearrange(kernel, "(i p) (j q) c d -> (i j p q c) d", p=2, q=2)
    return jnp.concatenate(under, axis=-1) @ weights

"""Vector quantisation with a codebook that gradients move (van den Oord et al. 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from diffjax.models.quantisers.base import (
    Indices,
    Losses,
    Quantised,
    Vectors,
    check_codes,
    nearest,
    squared_error,
    straight_through,
)
from diffjax.typing import Keys

__all__ = ["VectorQuantiser"]


class VectorQuantiser(nn.Module):
    """The nearest of `num_codes` trained codes of `code_dim` channels (ibid., eq. 1 to 3).

    `beta` weighs the commitment loss, from 0. `legacy` weighs the codebook loss with it instead, as
    the first releases of Taming Transformers and diffusers' VQModel do. Raises UserError for
    numbers out of range.
    """

    num_codes: int = 512
    code_dim: int = 64
    beta: float = 0.25
    legacy: bool = False

    def __post_init__(self) -> None:
        check_codes("vq", self.num_codes, self.code_dim, self.beta)
        super().__post_init__()

    def setup(self) -> None:
        start = uniform_codes
        self.embedding = nn.Embed(self.num_codes, self.code_dim, embedding_init=start)

    @property
    def size(self) -> int:
        return self.num_codes

    @property
    def dim(self) -> int:
        return self.code_dim

    def __call__(
        self, latents: Vectors, *, train: bool = False, keys: Keys | None = None
    ) -> Quantised:
        indices = nearest(latents, lax.stop_gradient(self.embedding.embedding))
        codes = self.embedding(indices)
        of_codebook = squared_error(codes, lax.stop_gradient(latents))
        of_commitment = squared_error(lax.stop_gradient(codes), latents)
        weights = (self.beta, 1.0) if self.legacy else (1.0, self.beta)
        losses = Losses(weights[0] * of_codebook, weights[1] * of_commitment)
        return Quantised(straight_through(latents, codes), indices, losses)

    def look_up(self, indices: Indices) -> Vectors:
        return self.embedding(indices)


def uniform_codes(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    """Codes uniform in [-1 / K, 1 / K], as the authors' code starts them."""
    return jax.random.uniform(key, shape, dtype, -1 / shape[0], 1 / shape[0])

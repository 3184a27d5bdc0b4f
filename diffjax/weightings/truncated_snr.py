"""The weight of whichever is harder to say, the image or the noise."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.weightings.base import Weighting

__all__ = ["TruncatedSNR"]


@dataclasses.dataclass(frozen=True)
class TruncatedSNR(Weighting):
    """max(SNR, 1) of x0's squared error: the larger of x0's and eps' (Salimans & Ho 2022)."""

    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.maximum(1.0, 1 / snr)

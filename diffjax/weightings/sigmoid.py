"""A weight that falls in log-SNR, and so is a bound's of noised images."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.weightings.base import Weighting

__all__ = ["SigmoidWeighting"]


@dataclasses.dataclass(frozen=True)
class SigmoidWeighting(Weighting):
    """sigmoid(bias - log-SNR) of eps' squared error, over log-SNR (Kingma & Gao 2023).

    Larger images want a smaller bias: -1 at 128 pixels, one less at every doubling (Hoogeboom et
    al. 2024).
    """

    bias: float = 0.0

    per_log_snr: ClassVar[bool] = True

    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jax.nn.sigmoid(self.bias - jnp.log(snr))

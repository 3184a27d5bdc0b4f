"""The weight of the variational bound."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.weightings.base import Weighting

__all__ = ["Variational"]


@dataclasses.dataclass(frozen=True)
class Variational(Weighting):
    """1/2 of eps' squared error, over log-SNR, in continuous time (Kingma et al. 2021)."""

    per_log_snr: ClassVar[bool] = True

    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.full_like(snr, 0.5)

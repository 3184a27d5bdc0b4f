"""Less of the nearly clean images."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.weightings.base import Weighting

__all__ = ["MinSNR"]


@dataclasses.dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, gamma) of x0's squared error (Hang et al. 2023).

    Raises UserError unless gamma > 0.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise UserError(f"min_snr(gamma={self.gamma}): choose gamma above 0, as 5 in the paper")

    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.minimum(1.0, self.gamma / snr)

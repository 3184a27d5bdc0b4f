"""Less of the noise levels at which only what the eye does not see is cleaned up."""

import dataclasses

from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.weightings.base import Weighting

__all__ = ["P2"]


@dataclasses.dataclass(frozen=True)
class P2(Weighting):
    """1 / (k + SNR)^gamma of eps' squared error (Choi et al. 2022). gamma=0 is `simple` in eps.

    Raises UserError unless gamma >= 0 and k > 0.
    """

    gamma: float = 1.0
    k: float = 1.0

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and self.k > 0):
            raise UserError(f"p2(gamma={self.gamma}, k={self.k}): choose gamma >= 0 and k > 0")

    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return (self.k + snr) ** -self.gamma

"""EDM's weight."""

import dataclasses

from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.weightings.base import Weighting

__all__ = ["EDMWeighting"]


@dataclasses.dataclass(frozen=True)
class EDMWeighting(Weighting):
    """SNR + 1 / sigma_data² of x0's squared error (Karras et al. 2022, table 1), 1 of their F's.

    sigma_data is the images' standard deviation. Raises UserError unless it is above 0.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise UserError(f"edm(sigma_data={self.sigma_data}): choose a number above 0")

    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return 1 + 1 / (snr * self.sigma_data**2)

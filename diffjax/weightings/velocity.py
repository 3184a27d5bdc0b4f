"""The weight of a flow's velocity, whatever the network predicts."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.weightings.base import Weighting

__all__ = ["VelocityWeighting"]


@dataclasses.dataclass(frozen=True)
class VelocityWeighting(Weighting):
    """1 / max(sigma, least_sigma)² of x0's squared error, where alpha + sigma = 1.

    Above least_sigma it is 1 of the squared error of a flow's velocity eps - x0. With target x0 it
    is JiT's loss, whose 1 - t is sigma (Li & He 2025). Raises UserError unless least_sigma is in
    [0, 1).
    """

    least_sigma: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.least_sigma < 1:
            raise UserError(
                f"velocity(least_sigma={self.least_sigma}): choose 0, no bound, up to, but not, 1"
            )

    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        ratio = jnp.sqrt(snr)  # alpha / sigma
        sigma = jnp.maximum(1 / (1 + ratio), self.least_sigma)
        return 1 / (sigma * ratio) ** 2

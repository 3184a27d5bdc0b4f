"""Improved DDPM's schedule: alpha_bar follows a squared cosine."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Discrete

__all__ = ["Cosine"]


@dataclasses.dataclass(frozen=True)
class Cosine(Discrete):
    """alpha_bar = cos²((t + offset) / (1 + offset) pi / 2) (Nichol & Dhariwal 2021, eq. 17).

    Betas are capped at max_beta, without which the last step would leave no signal at all.
    Raises UserError unless 0 < offset and 0 < max_beta < 1.
    """

    offset: float = 0.008
    max_beta: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.offset > 0 and 0 < self.max_beta < 1):
            raise UserError(
                f"cosine(offset={self.offset}, max_beta={self.max_beta}): "
                "choose 0 < offset and 0 < max_beta < 1"
            )

    def betas(self) -> Float64[np.ndarray, "T"]:
        t = np.arange(self.steps + 1) / self.steps
        alpha_bar = np.cos((t + self.offset) / (1 + self.offset) * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], self.max_beta)

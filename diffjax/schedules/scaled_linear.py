"""Stable Diffusion's schedule: the roots of betas on a straight line."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Discrete

__all__ = ["ScaledLinear"]


@dataclasses.dataclass(frozen=True)
class ScaledLinear(Discrete):
    """sqrt(beta) from sqrt(beta_start) to sqrt(beta_end) over T steps (Rombach et al. 2022, code).

    Raises UserError unless 0 < beta_start <= beta_end < 1.
    """

    beta_start: float = 8.5e-4
    beta_end: float = 0.012

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(
                f"scaled_linear(beta_start={self.beta_start}, beta_end={self.beta_end}): "
                "choose 0 < beta_start <= beta_end < 1"
            )

    def betas(self) -> Float64[np.ndarray, "T"]:
        return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps) ** 2

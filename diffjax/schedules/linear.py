"""DDPM's schedule: betas on a straight line."""

import dataclasses

import numpy as np
from jaxtyping import Float64

from diffjax.errors import UserError
from diffjax.schedules.base import Discrete

__all__ = ["Linear"]


@dataclasses.dataclass(frozen=True)
class Linear(Discrete):
    """beta from beta_start to beta_end over T steps (Ho et al. 2020, section 4).

    Raises UserError unless 0 < beta_start <= beta_end < 1.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(
                f"linear(beta_start={self.beta_start}, beta_end={self.beta_end}): "
                "choose 0 < beta_start <= beta_end < 1"
            )

    def betas(self) -> Float64[np.ndarray, "T"]:
        return np.linspace(self.beta_start, self.beta_end, self.steps, dtype=np.float64)

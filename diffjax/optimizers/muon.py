"""Muon: a step that moves all directions of a matrix alike."""

import dataclasses
import math
from typing import Any

import jax
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from diffjax.errors import UserError
from diffjax.optimizers.base import Optimizer
from diffjax.typing import Params

__all__ = ["Muon"]

LIKE_ADAM = 0.2  # the root mean square of Adam's steps, over its rate (Liu et al. 2025, sec. 2.2)
NARROW = 16  # a layer of fewer outputs is the last one, whose outputs are pixels


@dataclasses.dataclass(frozen=True)
class Muon(Optimizer):
    """Momentum made orthogonal (Jordan et al. 2024), for the kernels of dense layers and of
    convolutions; Adam for all other parameters and for the last layer.

    The kernel of a convolution is a matrix of all that a place takes times all that it gives. Steps
    are as large as Adam's, so that a learning rate serves both (Liu et al. 2025, eq. 4).
    beta: in [0, 1), how much of the momentum is kept each step. steps: of the Newton-Schulz
    iteration, 1 or more. Raises UserError for others.
    """

    beta: float = 0.95
    steps: int = 5

    def __post_init__(self) -> None:
        if not (0 <= self.beta < 1 and self.steps >= 1):
            raise UserError(
                f"muon(beta={self.beta}, steps={self.steps}): beta lies in [0, 1), and there is a "
                "step or more"
            )

    def transformation(self, rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.contrib.muon(
            rate,
            ns_steps=self.steps,
            beta=self.beta,
            consistent_rms=LIKE_ADAM,
            muon_weight_dimension_numbers=matrices,
        )


def matrices(params: Params) -> Any:
    """Which axes of each parameter are a matrix's two; None for one that is no matrix."""

    def axes(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        *taken, given = leaf.shape or (0,)
        kernel = getattr(path[-1], "key", None) == "kernel"
        if not kernel or given < NARROW or math.prod(taken) < 2:
            return None
        return MuonDimensionNumbers(tuple(range(len(taken))), len(taken))

    return jax.tree_util.tree_map_with_path(axes, params)

"""Adam."""

import dataclasses

import optax

from diffjax.errors import UserError
from diffjax.optimizers.base import Optimizer

__all__ = ["Adam"]


@dataclasses.dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1); with weight_decay AdamW (Loshchilov & Hutter 2019).

    beta1, beta2: in [0, 1), how much of the means of gradients and of their squares is kept each
    step. weight_decay: 0 or more, times the rate, by which each parameter shrinks. Raises UserError
    for others.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.weight_decay >= 0):
            raise UserError(
                f"adam(beta1={self.beta1}, beta2={self.beta2}, weight_decay={self.weight_decay}): "
                "betas lie in [0, 1), and decay is 0 or more"
            )

    def transformation(self, rate: optax.Schedule) -> optax.GradientTransformation:
        if self.weight_decay:
            return optax.adamw(rate, self.beta1, self.beta2, weight_decay=self.weight_decay)
        return optax.adam(rate, self.beta1, self.beta2)

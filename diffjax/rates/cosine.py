"""A rate that falls along a cosine."""

import dataclasses

import optax

from diffjax.rates.base import RateLaw

__all__ = ["CosineDecay"]


@dataclasses.dataclass(frozen=True)
class CosineDecay(RateLaw):
    """From the peak along half a cosine to 0 at the last step (Loshchilov & Hutter 2017)."""

    def schedule(self, peak: float, steps: int, warmup_steps: int) -> optax.Schedule:
        warmup_steps = min(warmup_steps, steps - 1)
        return optax.warmup_cosine_decay_schedule(
            peak / (warmup_steps + 1), peak, warmup_steps, steps
        )

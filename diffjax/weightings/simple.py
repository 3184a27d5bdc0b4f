"""No weight at all."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.process import Process
from diffjax.typing import Times
from diffjax.weightings.base import Weighting

__all__ = ["Simple"]


@dataclasses.dataclass(frozen=True)
class Simple(Weighting):
    """1 in the process's own target (Ho et al. 2020, eq. 14): another target is another loss."""

    def of_eps(self, snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """Of a process whose target is eps."""
        return jnp.ones_like(snr)

    def of_target(self, process: Process, t: Times) -> Float[Array, "..."]:
        return jnp.ones_like(t)

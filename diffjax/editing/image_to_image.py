"""Images drawn anew from a rough one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from diffjax.editing.base import Edit, diffuse
from diffjax.errors import UserError
from diffjax.schedules.base import Schedule
from diffjax.typing import Images, Keys, Times


@dataclasses.dataclass(frozen=True, eq=False)
class SDEdit(Edit):
    """SDEdit (Meng et al. 2022, section 3): noise the guide up to a time, and walk down from there.

    strength: that time, their t0, in (0, 1]; 1 leaves next to nothing of the guide. Raises
    UserError for others.
    """

    guide: Images
    strength: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(
                f"strength={self.strength}: choose above 0 (the image itself) up to 1 (a new one)"
            )

    def times(self, times: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "S"]:
        """Those below `strength`, and it; a spacing that begins lower is taken as it is."""
        first = np.minimum(np.float32(self.strength), times[0])
        return np.append(first, times[times < first])

    def start(self, schedule: Schedule, keys: Keys, t: Times) -> Images:
        return diffuse(schedule, keys, self.guide, jnp.zeros(()), t)


jax.tree_util.register_dataclass(SDEdit, ["guide"], ["sampler", "strength"])

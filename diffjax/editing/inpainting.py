"""Painting what is missing of an image."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Int

from diffjax.editing.base import Edit, diffuse
from diffjax.errors import UserError
from diffjax.process import expand
from diffjax.randomness import fold_in
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times


@dataclasses.dataclass(frozen=True, eq=False)
class Repaint(Edit):
    """RePaint (Lugmayr et al. 2022, algorithm 1): what is kept is noised anew at every time.

    keep: True where `known` stays; in the end those pixels are the given ones, to the bit.
    Every `jump` steps x is noised again by as many, until the stretch was walked `resample` times,
    so that the two parts can come to agree. Raises UserError for less than 1 of either.
    """

    known: Images
    keep: Bool[Array, "B H W 1"]
    jump: int = 10
    resample: int = 4

    def __post_init__(self) -> None:
        for name in ("jump", "resample"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: choose 1 or more; 1 is the least")

    @property
    def order(self) -> int:
        return 0

    def start(self, schedule: Schedule, keys: Keys, t: Times) -> Images:
        return diffuse(schedule, keys, jnp.where(self.keep, self.known, 0.0), jnp.zeros(()), t)

    def times(self, times: Float32[np.ndarray, "T"]) -> Float32[np.ndarray, "S"]:
        """As the paper's appendix jumps: from the last time above 0, and from every `jump`-th up.

        One rise over `jump` times is in distribution what as many single ones are.
        """
        steps = len(times) - 1
        left = dict.fromkeys(range(1, steps - self.jump + 1, self.jump), self.resample - 1)
        walk, at = [steps], steps  # positions are counted from the end: 0 is clean
        while at > 0:
            if left.get(at, 0):
                left[at] -= 1
                at += self.jump
            else:
                at -= 1
            walk.append(at)
        return times[::-1][np.asarray(walk)]

    def init(self, x: Images, steps: Int[Array, ""]) -> Any:
        return self.sampler.init(x, steps), steps

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: Any,
        t: Times,
        s: Times,
    ) -> tuple[Images, Any]:
        # Folded in, both: a sampler's own draws stay apart from these.
        inner, own = fold_in(keys, 0), fold_in(keys, 1)

        def fall(x: Images, memory: Any) -> tuple[Images, Any]:
            remembered, steps = memory
            made, remembered = self.sampler.step(schedule, denoise, inner, x, remembered, t, s)
            known = diffuse(schedule, own, self.known, jnp.zeros(()), s)
            return jnp.where(self.keep, known, made), (remembered, steps)

        def rise(x: Images, memory: Any) -> tuple[Images, Any]:
            # What a multistep method remembers is of a path that x has left.
            return diffuse(schedule, own, x, t, s), self.init(x, memory[1])

        return lax.cond(s < t, fall, rise, x, memory)


jax.tree_util.register_dataclass(Repaint, ["known", "keep"], ["sampler", "jump", "resample"])


@dataclasses.dataclass(frozen=True, eq=False)
class Blended(Edit):
    """Blended latent diffusion (Avrahami et al. 2023), with one noise for all times.

    That is how diffusers paints by a network that is shown no mask. keep: True where `known` stays;
    at time 0 those are the given ones. first: x at the first of the times, the kept part included.
    """

    known: Images
    keep: Bool[Array, "B H W 1"]
    noise: Images
    first: Images

    def start(self, schedule: Schedule, keys: Keys, t: Times) -> Images:
        return self.first

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: Any,
        t: Times,
        s: Times,
    ) -> tuple[Images, Any]:
        made, memory = self.sampler.step(schedule, denoise, keys, x, memory, t, s)
        alpha, sigma = (expand(c, x) for c in schedule.alpha_sigma(s))
        return jnp.where(self.keep, alpha * self.known + sigma * self.noise, made), memory


jax.tree_util.register_dataclass(Blended, ["known", "keep", "noise", "first"], ["sampler"])

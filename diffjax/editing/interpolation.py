"""Images between images, by way of the noises that give them."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.editing.base import Edit
from diffjax.errors import UserError
from diffjax.process import Process, expand
from diffjax.randomness import sample_keys
from diffjax.samplers.base import sample
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times


@dataclasses.dataclass(frozen=True, eq=False)
class FromNoise(Edit):
    """Walks down from noise that is given, not drawn."""

    noise: Images

    def check(self, process: Process) -> None:
        super().check(process)
        if not self.order:
            raise UserError(
                "noise that is drawn on the way leads away from the images: choose a sampler "
                "without, such as ddim(eta=0)"
            )
        if process.consistent:
            raise UserError(
                "a consistency model knows no way from an image to its noise: pass its teacher"
            )

    def start(self, schedule: Schedule, keys: Keys, t: Times) -> Images:
        return self.noise


jax.tree_util.register_dataclass(FromNoise, ["noise"], ["sampler"])


def invert(schedule: Schedule, denoise: Denoiser, x: Images, times: Float[Array, "T"]) -> Images:
    """The noise at times[0] from which DDIM's walk down `times` leads near x (Song et al. 2021).

    DDIM up the same times, from the last above 0, at which x is taken to be: a network knows no eps
    of a clean image. The error is of first order in the step. Raises UserError for fewer than two
    steps.
    """
    if len(times) < 3:
        raise UserError(f"steps={len(times) - 1}: an inversion takes at least two sampling steps")
    unused = sample_keys(jax.random.key(0), 0, len(x))
    return sample(DDIM(), schedule, denoise, unused, x, times[-2::-1])[0]


def slerp(a: Images, b: Images, share: Float[Array, "B"]) -> Images:
    """From a (share 0) to b (share 1) along the great circle between them (Shoemake 1985).

    The angle is that of whole images; where it is 0, or nearly, this is the straight line.
    """
    axes = (1, 2, 3)
    lengths = jnp.sqrt(jnp.sum(a**2, axes) * jnp.sum(b**2, axes))
    cosine = jnp.sum(a * b, axes) / jnp.maximum(lengths, jnp.finfo(a.dtype).tiny)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    near = jnp.sin(angle) < 1e-4
    below = jnp.where(near, 1.0, jnp.sin(angle))
    of_a = jnp.where(near, 1 - share, jnp.sin((1 - share) * angle) / below)
    of_b = jnp.where(near, share, jnp.sin(share * angle) / below)
    return expand(of_a, a) * a + expand(of_b, b) * b

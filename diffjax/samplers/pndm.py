"""Pseudo numerical methods for diffusion models."""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from diffjax.samplers import multistep
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.spacings.base import Spacing
from diffjax.spacings.karras import Karras
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["PNDM"]


@dataclasses.dataclass(frozen=True)
class PNDM(Sampler):
    """PLMS: DDIM's step with the mean of eps on the way, from its last four (Liu et al. 2022).

    Not with the paper's Runge-Kutta start but with one step of Heun's, and then two, three and four
    eps, as in latent diffusion's code and diffusers' skip_prk_steps. The weights are Adams and
    Bashforth's for the times as they lie: on even ones 55, -59, 37, -9 over 24, as in the paper.
    """

    @property
    def order(self) -> int:
        return 2

    @property
    def spacing(self) -> Spacing:
        return Karras(sigma_max=20.0)  # few steps from more noise spoil the image

    def nfe(self, steps: int) -> int:
        return steps + 1 if steps > 1 else 1

    def init(self, x: Images, steps: Int[Array, ""]) -> multistep.History:
        return multistep.empty(x, 3)

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: multistep.History,
        t: Times,
        s: Times,
    ) -> tuple[Images, multistep.History]:
        x0, eps, _ = denoise(x, t)
        alpha, sigma = schedule.alpha_sigma(s)
        ddim = alpha * x0 + sigma * eps
        before, nodes = memory
        weights = multistep.weights(jnp.append(t, nodes), t, s)[1:] / (s - t)
        first = jnp.isinf(nodes[0]) & (s > 0)
        change = lax.cond(
            first,
            lambda: (denoise(ddim, s).eps - eps) / 2,
            lambda: multistep.changes(weights, before, eps),
        )
        step = sigma - alpha * schedule.sigma_ve(t)
        return ddim + step * change, multistep.remember(memory, eps, t)

"""Samplers that step from training step to training step, as two of diffusers' schedulers do."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Prediction, Times

# Adams and Bashforth's weights for even steps, of one to four past outputs, the newest first.
WEIGHTS = ((24, 0, 0, 0), (36, -12, 0, 0), (46, -32, 10, 0), (55, -59, 37, -9))


@dataclasses.dataclass(frozen=True)
class IndexDDIM(Sampler):
    """DDIMScheduler: from index i to i - T // N, wherever the next of the N times lies.

    kind: the spacing of its times, which are not rounded yet: so a step's length tells N. Below
    index 0 it ends: at t = 0 where `clean`, and otherwise at index 0. x0 is kept in
    [-limit, limit], and eps is not made consistent with it.
    """

    kind: Literal["linspace", "leading", "trailing"] = "leading"
    clean: bool = True
    limit: float | None = None

    @property
    def order(self) -> int:
        return 1

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: tuple[()],
        t: Times,
        s: Times,
    ) -> tuple[Images, tuple[()]]:
        most = schedule.steps
        # Times count training steps from 1, where indices begin with 0.
        count = jnp.round(t * most)
        to = jnp.maximum(count - self._stride(most, (t - s) * most), 0.0 if self.clean else 1.0)

        def clipped(x: Images, t: Times) -> Prediction:
            prediction = denoise(x, t)
            if self.limit is None:
                return prediction
            return prediction._replace(x0=jnp.clip(prediction.x0, -self.limit, self.limit))

        return DDIM().step(schedule, clipped, keys, x, memory, count / most, to / most)

    def _stride(self, most: int, length: Float[Array, ""]) -> Float[Array, ""]:
        """T // N, from the training steps between two times."""
        if self.kind == "leading":
            return jnp.round(length)
        # A linspace's steps are (T - 1) / (N - 1) long, a trailing one's T / N.
        steps = most / length if self.kind == "trailing" else (most - 1) / length + 1
        return jnp.floor(most / jnp.round(steps))


# The last outputs, the newest first; how many there are; whether the next step is corrected.
Memory = tuple[Float[Array, "4 B H W C"], Int[Array, ""], Bool[Array, ""]]


@dataclasses.dataclass(frozen=True)
class IndexPNDM(Sampler):
    """PNDMScheduler with skip_prk_steps: `pndm` with the weights for even steps at all of them.

    target: what the network gives back. It is this that the weights join, not eps.
    """

    target: Literal["eps", "v"] = "eps"

    @property
    def order(self) -> int:
        return 2

    def nfe(self, steps: int) -> int:
        return steps + 1 if steps > 1 else 1

    def init(self, x: Images, steps: Int[Array, ""]) -> Memory:
        return jnp.zeros((4, *x.shape), x.dtype), jnp.zeros((), int), jnp.asarray(steps > 1)

    def step(
        self,
        schedule: Schedule,
        denoise: Denoiser,
        keys: Keys,
        x: Images,
        memory: Memory,
        t: Times,
        s: Times,
    ) -> tuple[Images, Memory]:
        outputs, count, first = memory
        output = self._output(schedule, denoise, x, t)
        outputs = jnp.concatenate([output[None], outputs[:3]])
        weights = jnp.asarray(WEIGHTS, x.dtype)[jnp.minimum(count, 3)] / 24

        def corrected() -> Images:
            ahead = self._move(schedule, x, output, t, s)
            return (output + self._output(schedule, denoise, ahead, s)) / 2

        mean = lax.cond(first, corrected, lambda: jnp.tensordot(weights, outputs, 1))
        moved = self._move(schedule, x, mean, t, s)
        return moved, (outputs, count + 1, jnp.zeros((), bool))

    def _output(self, schedule: Schedule, denoise: Denoiser, x: Images, t: Times) -> Images:
        x0, eps, _ = denoise(x, t)
        alpha, sigma = schedule.alpha_sigma(t)
        return eps if self.target == "eps" else alpha * eps - sigma * x0

    def _move(self, schedule: Schedule, x: Images, output: Images, t: Times, s: Times) -> Images:
        """DDIM's step with such an output (Liu et al. 2022, eq. 11)."""
        x0, eps, _ = Process(schedule, self.target).to_prediction(output, x, t)
        alpha, sigma = schedule.alpha_sigma(s)
        return alpha * x0 + sigma * eps

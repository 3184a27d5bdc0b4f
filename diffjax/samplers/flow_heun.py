"""Heun's method on a flow."""

import dataclasses

from jax import lax

from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Schedule
from diffjax.schedules.flow import Flow
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["FlowHeun"]


@dataclasses.dataclass(frozen=True)
class FlowHeun(Sampler):
    """Heun's method on dx/dsigma = eps - x0, the velocity of a flow (Liu et al. 2023, eq. 1).

    The step to t = 0 is Euler's: a velocity at sigma = 0 is none where the network tells x0, for it
    divides by sigma, nor is any network trained there. One step like that costs no order. `check`
    raises UserError off a flow.
    """

    @property
    def order(self) -> int:
        return 2

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

    def check(self, process: Process) -> None:
        super().check(process)
        if not isinstance(process.schedule, Flow):
            name = type(process.schedule).__name__
            raise UserError(
                f"sampler flow_heun needs schedule flow, not {name}: choose sampler heun"
            )

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
        x0, eps, _ = denoise(x, t)
        (alpha, sigma), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        euler = alpha_s * x0 + sigma_s * eps

        def corrected() -> Images:
            x0_s, eps_s, _ = denoise(euler, s)
            # A flow's d alpha is -d sigma; written with both, it is the trapezium on any schedule.
            return euler + ((alpha_s - alpha) * (x0_s - x0) + (sigma_s - sigma) * (eps_s - eps)) / 2

        return lax.cond(s > 0, corrected, lambda: euler), memory

"""Euler's method on a flow."""

import dataclasses

from diffjax.errors import UserError
from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.samplers.euler import Euler
from diffjax.schedules.base import Schedule
from diffjax.schedules.flow import Flow
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["FlowEuler"]


@dataclasses.dataclass(frozen=True)
class FlowEuler(Sampler):
    """Euler's method on dx/dsigma = eps - x0, the velocity of a flow (Liu et al. 2023, eq. 1).

    x + (sigma_s - sigma_t) (eps - x0) is alpha_s x0 + sigma_s eps where alpha = 1 - sigma: the step
    of `euler`, which is Euler's on another equation. `check` raises UserError off a flow.
    """

    @property
    def order(self) -> int:
        return 1

    def check(self, process: Process) -> None:
        super().check(process)
        if not isinstance(process.schedule, Flow):
            name = type(process.schedule).__name__
            raise UserError(
                f"sampler flow_euler needs schedule flow, not {name}: "
                "choose sampler euler, which makes the same step on any schedule"
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
        return Euler().step(schedule, denoise, keys, x, memory, t, s)

"""Steps of any length, by a network of average velocity."""

import dataclasses

from diffjax.errors import UserError
from diffjax.process import Averaged, Process
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["FlowMap"]


@dataclasses.dataclass(frozen=True)
class FlowMap(Sampler):
    """x_s = x_t - (sigma_t - sigma_s) u(x_t, t, s), u the average velocity from t to s.

    (Geng et al. 2025, eq. 12; Frans et al. 2024, sec. 3.) Such a network has learnt its guidance.
    `check` raises UserError for another network, and `step` for one that is guided besides.
    """

    @property
    def order(self) -> int:
        return 1

    def check(self, process: Process) -> None:
        if not process.average:
            raise UserError(
                "sampler flow_map draws from networks of average velocity alone: train one with "
                "loss mean_flow or shortcut, or choose ddim",
                option="sampler",
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
        if not isinstance(denoise, Averaged):
            raise UserError(
                "sampler flow_map draws with the guidance that its network has learnt: leave "
                "guidance out, or choose flow_euler",
                option="guidance",
            )
        return DDIM().step(schedule, denoise.towards(s), keys, x, memory, t, s)

"""DPM-Solver++'s second-order multistep method."""

import dataclasses

from jaxtyping import Array, Int

from diffjax.samplers.base import Sampler
from diffjax.samplers.dpmpp_2m_sde import DPMpp2MSDE, Memory
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["DPMpp2M"]


@dataclasses.dataclass(frozen=True)
class DPMpp2M(Sampler):
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): that on the SDE, without its noise."""

    @property
    def order(self) -> int:
        return 2

    def init(self, x: Images, steps: Int[Array, ""]) -> Memory:
        return DPMpp2MSDE(eta=0.0).init(x, steps)

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
        return DPMpp2MSDE(eta=0.0).step(schedule, denoise, keys, x, memory, t, s)

"""Langevin steps at each noise level, and ancestral ones from level to level."""

import dataclasses

from diffjax.errors import UserError
from diffjax.randomness import fold_in, normal
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times

__all__ = ["PredictorCorrector"]


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """Song et al. 2021b, appendix G: `corrections` Langevin steps at t, then an ancestral one to s.

    In the order of the paper's own code, which spares a score at t = 0. `snr` is the corrector's
    signal-to-noise ratio r. Its step 2 (r |z| / |score|)² is taken with |score| = |z| / sigma, what
    it is for unit eps, not measured: a batch's mean would depend on the batch, and a sample's own
    norm makes the step depend on x, which leaves another density, p |score|². Raises UserError
    unless corrections >= 1 and 0 < snr < 1.
    """

    corrections: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if self.corrections < 1:
            raise UserError(
                f"predictor_corrector(corrections={self.corrections}): choose 1 or more; "
                "none is euler_ancestral"
            )
        if not 0 < self.snr < 1:
            raise UserError(f"predictor_corrector(snr={self.snr}): choose it between 0 and 1")

    @property
    def order(self) -> int:
        return 0

    def nfe(self, steps: int) -> int:
        return steps * (1 + self.corrections)

    def correct(
        self, schedule: Schedule, denoise: Denoiser, keys: Keys, x: Images, t: Times
    ) -> Images:
        """One Langevin step of 2 (r sigma)² at t in (0, 1], with score -eps / sigma."""
        _, sigma = schedule.alpha_sigma(t)
        noise = normal(keys, x.shape[1:])
        return x + 2 * self.snr * sigma * (noise - self.snr * denoise(x, t).eps)

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
        for i in range(self.corrections):
            x = self.correct(schedule, denoise, fold_in(keys, i + 1), x, t)
        return DDIM(eta=1.0).step(schedule, denoise, fold_in(keys, 0), x, memory, t, s)

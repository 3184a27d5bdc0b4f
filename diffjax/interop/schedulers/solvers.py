"""Schedulers that are solvers of higher order."""

import dataclasses
from typing import Literal

from diffjax.errors import UserError
from diffjax.interop.schedulers.betas import tabled
from diffjax.interop.schedulers.noise_levels import Preconditioned
from diffjax.interop.schedulers.options import (
    Discretised,
    Levelled,
    Rescaled,
    Scheduler,
    Thresholded,
)
from diffjax.interop.schedulers.times import NoiseLevels
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.deis import DEIS
from diffjax.samplers.dpmpp_2m_sde import DPMpp2MSDE
from diffjax.samplers.dpmpp_3m_sde import DPMpp3MSDE
from diffjax.samplers.unipc import UniPC


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ordered(Thresholded):
    """A solver of some order, lower at the end of a walk."""

    solver_order: Literal[1, 2, 3] = 2
    lower_order_final: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver(Discretised, Levelled, Ordered):
    """Solvers whose networks are told training steps: the levels of a law have the nearest ones."""

    use_exponential_sigmas: Literal[False] = False  # diffusers cuts off what is not whole
    use_flow_sigmas: Literal[False] = False
    flow_shift: float = 1.0
    use_dynamic_shifting: Literal[False] = False
    time_shift_type: Literal["exponential"] = "exponential"

    def solving(
        self, sampler: Sampler, last: float | None, highest: int | None = None
    ) -> Scheduler:
        schedule = self.schedule
        if schedule.zero_terminal:
            schedule = tabled(schedule)
        if self.law is not None:
            process = self.process(schedule, time_input="whole_index")
            return Scheduler(process, sampler, NoiseLevels(self.law, last=last), limit=self.limit)
        highest = self.num_train_timesteps if highest is None else highest
        spacing = self.training_steps(left_out=True, last=last, highest=highest)
        return Scheduler(self.process(schedule), sampler, spacing, limit=self.limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended(Rescaled, Solver):
    """Solvers that end without noise, or at the first training step's."""

    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def last(self) -> float:
        return 0.0 if self.final_sigmas_type == "zero" else self.first


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPM(Ordered):
    """DPM-Solver++, on the flow or on the SDE."""

    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    euler_at_final: bool = False

    @property
    def sampler(self) -> Sampler:
        eta = 1.0 if self.algorithm_type == "sde-dpmsolver++" else 0.0
        if self.solver_order == 1:
            return DDIM(eta)
        if self.solver_order == 2:
            return DPMpp2MSDE(eta, self.solver_type, self.lower_order_final)
        if eta:
            raise UserError(
                'solver_order=3 with algorithm_type="sde-dpmsolver++" is not supported, for the '
                "last term of diffusers' formula has the wrong sign: choose solver_order=2"
            )
        return DPMpp3MSDE(eta, self.solver_type, self.lower_order_final)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepScheduler(Ended, DPM):
    use_lu_lambdas: Literal[False] = False
    lambda_min_clipped: float = -float("inf")
    variance_type: Literal["learned", "learned_range"] | None = None

    def scheduler(self) -> Scheduler:
        highest = int((self.schedule.log_snr_table / 2 >= self.lambda_min_clipped).sum())
        self._check(highest)
        scheduler = self.solving(self.sampler, self.last, highest)
        if self.variance_type is None:
            return scheduler
        process = dataclasses.replace(scheduler.process, learned_variance=True)
        return dataclasses.replace(scheduler, process=process)

    def _check(self, highest: int) -> None:
        """Refuses what diffusers does with times and orders that are not as they are here."""
        final = f'final_sigmas_type="{self.final_sigmas_type}"'
        clipped = f"lambda_min_clipped={self.lambda_min_clipped}"
        fewer = highest < self.num_train_timesteps
        for lacks, what in (
            (self.euler_at_final and self.last, f"euler_at_final=true with {final}"),
            (self.use_karras_sigmas and self.beta_schedule == "squaredcos_cap_v2",
             'use_karras_sigmas=true with beta_schedule="squaredcos_cap_v2"'),
            (fewer and self.timestep_spacing == "trailing",
             f'{clipped} with timestep_spacing="trailing"'),
            (highest < 1, clipped),
        ):  # fmt: skip
            if lacks:
                raise UserError(f"{what} is not supported")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMDPMSolverMultistepScheduler(Preconditioned, DPM):
    def scheduler(self) -> Scheduler:
        return self.preconditioned(self.sampler, self.limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPCMultistepScheduler(Ended):
    predict_x0: Literal[True] = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    disable_corrector: list[int] | None = None
    solver_p: None = None
    sigma_min: None = None
    sigma_max: None = None
    shift_terminal: None = None

    def scheduler(self) -> Scheduler:
        final = f'final_sigmas_type="{self.final_sigmas_type}"'
        for lacks, what in (
            (self.law and self.last, f"use_karras_sigmas=true with {final}"),
            (self.solver_type == "bh1" and not self.last, f'solver_type="bh1" with {final}'),
            (self.disable_corrector, f"disable_corrector={self.disable_corrector}"),
        ):
            if lacks:
                raise UserError(f"{what} is not supported")
        b: Literal[1, 2] = 1 if self.solver_type == "bh1" else 2
        return self.solving(UniPC(self.solver_order, b, self.lower_order_final), self.last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DEISMultistepScheduler(Solver):
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"

    def scheduler(self) -> Scheduler:
        sampler = DEIS(self.solver_order, self.lower_order_final)
        return self.solving(sampler, None if self.law else self.first)

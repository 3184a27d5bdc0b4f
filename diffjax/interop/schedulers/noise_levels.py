"""Schedulers that step from one noise level to the next, between training steps too."""

import dataclasses
from typing import Literal

from diffjax.errors import UserError
from diffjax.interop.schedulers.betas import tabled
from diffjax.interop.schedulers.options import (
    Discretised,
    Levelled,
    Options,
    Rescaled,
    Scheduler,
)
from diffjax.interop.schedulers.times import FlowLevels, NoiseLevels
from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.samplers.euler import Euler
from diffjax.samplers.euler_ancestral import EulerAncestral
from diffjax.samplers.flow_euler import FlowEuler
from diffjax.samplers.heun import Heun
from diffjax.samplers.lms import LMS
from diffjax.schedules.edm import EDM
from diffjax.schedules.flow import Flow
from diffjax.spacings.base import Spacing
from diffjax.spacings.exponential import Exponential
from diffjax.spacings.karras import Karras


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sigmas(Discretised, Levelled):
    """Schedulers of x over alpha."""

    def stepping(self, sampler: Sampler, last: float = 0.0, **ends: float | None) -> Scheduler:
        """low and high: the ends of the law's levels, where the training steps do not give them."""
        schedule, even = self.schedule, self.timestep_spacing == "linspace"
        if schedule.zero_terminal:
            schedule = tabled(schedule)
        within = self.training_steps(rounded="never" if even else "now", last=last)
        spacing: Spacing = within
        if self.law is not None:
            spacing = NoiseLevels(self.law, within, last=last, **ends)
        elif even:
            schedule = tabled(schedule, straight=True)
        unit_noise = self.timestep_spacing == "leading"
        return Scheduler(self.process(schedule), sampler, spacing, unit_noise)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerDiscreteScheduler(Rescaled, Sigmas):
    interpolation_type: Literal["linear"] = "linear"
    sigma_min: float | None = None
    sigma_max: float | None = None
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    def scheduler(self) -> Scheduler:
        last = 0.0 if self.final_sigmas_type == "zero" else self.first
        scheduler = self.stepping(Euler(), last, low=self.sigma_min, high=self.sigma_max)
        if self.timestep_type == "discrete" or self.prediction_type != "v_prediction":
            return scheduler
        process = dataclasses.replace(scheduler.process, time_input="c_noise")
        return dataclasses.replace(scheduler, process=process)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerAncestralDiscreteScheduler(Rescaled, Sigmas):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"

    def scheduler(self) -> Scheduler:
        return self.stepping(EulerAncestral())


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeunDiscreteScheduler(Sigmas):
    beta_start: float = 0.00085
    beta_end: float = 0.012
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def scheduler(self) -> Scheduler:
        limit = self.clip_sample_range if self.clip_sample else None
        if limit is not None and not limit > 0:
            raise UserError(f"clip_sample_range={limit}: choose a number above 0")
        return dataclasses.replace(self.stepping(Heun()), limit=limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMSDiscreteScheduler(Sigmas):
    def scheduler(self) -> Scheduler:
        return self.stepping(LMS())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preconditioned(Options):
    """A network of Karras et al. (2022), which is told a quarter of log(sigma)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    num_train_timesteps: int = 1000
    prediction_type: Literal["epsilon"] = "epsilon"
    rho: float = 7.0
    final_sigmas_type: Literal["zero"] = "zero"

    def preconditioned(self, sampler: Sampler, limit: float | None = None) -> Scheduler:
        schedule = EDM(self.num_train_timesteps, self.sigma_min, self.sigma_max, self.rho)
        process = Process(schedule, "edm", self.sigma_data, time_input="c_noise")
        karras = self.sigma_schedule == "karras"
        spacing = Karras(self.sigma_max, self.rho) if karras else Exponential(self.sigma_max)
        return Scheduler(process, sampler, spacing, limit=limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMEulerScheduler(Preconditioned):
    def scheduler(self) -> Scheduler:
        return self.preconditioned(Euler())


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatchEulerDiscreteScheduler(Options):
    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: Literal[False] = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    invert_sigmas: Literal[False] = False
    shift_terminal: None = None
    use_karras_sigmas: Literal[False] = False
    use_exponential_sigmas: Literal[False] = False
    use_beta_sigmas: Literal[False] = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    stochastic_sampling: Literal[False] = False

    def scheduler(self) -> Scheduler:
        process = Process(Flow(self.num_train_timesteps), "velocity", time_input="count")
        return Scheduler(process, FlowEuler(), FlowLevels(self.shift), unit_noise=False)

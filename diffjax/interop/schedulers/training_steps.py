"""Schedulers that step from training step to training step."""

import dataclasses
from typing import Literal

from diffjax.errors import UserError
from diffjax.interop.schedulers.options import Discretised, Kind, Rescaled, Scheduler, Thresholded
from diffjax.interop.schedulers.steps import IndexDDIM, IndexPNDM
from diffjax.samplers.ddpm import DDPM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped(Rescaled, Thresholded):
    """x0 is thresholded, or else clipped."""

    timestep_spacing: Kind = "leading"
    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.clip_sample_range > 0:
            raise UserError(f"clip_sample_range={self.clip_sample_range}: choose a number above 0")

    @property
    def limit(self) -> float | None:
        return super().limit or (self.clip_sample_range if self.clip_sample else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPMScheduler(Clipped):
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "learned_range"] = (
        "fixed_small"
    )

    def scheduler(self) -> Scheduler:
        small, learned = "small" in self.variance_type, self.variance_type == "learned_range"
        if not small and (self.timestep_spacing == "trailing" or self.steps_offset):
            raise UserError(
                f'variance_type="{self.variance_type}" with timestep_spacing='
                f'"{self.timestep_spacing}" and steps_offset={self.steps_offset} is not supported: '
                "diffusers adds noise to the finished image"
            )
        process = self.process(self.schedule, learned_variance=learned)
        sampler = DDPM("small" if small else "learned" if learned else "large")
        return Scheduler(process, sampler, self.training_steps(), limit=self.limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIMScheduler(Clipped):
    set_alpha_to_one: bool = True

    def scheduler(self) -> Scheduler:
        sampler = IndexDDIM(self.timestep_spacing, self.set_alpha_to_one, self.limit)
        return Scheduler(self.process(self.schedule), sampler, self.training_steps(rounded="later"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PNDMScheduler(Discretised):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading"] = "leading"
    # diffusers' default is false, and with it the paper's Runge-Kutta steps at the start.
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False

    def scheduler(self) -> Scheduler:
        if not self.skip_prk_steps:
            raise UserError("skip_prk_steps=false is not supported: only true is")
        process = self.process(self.schedule)
        spacing = self.training_steps(last=0.0 if self.set_alpha_to_one else self.first)
        return Scheduler(process, IndexPNDM("v" if process.target == "v" else "eps"), spacing)

"""The options of diffusers' schedulers, with their defaults, and what they stand for here.

Each class has the name of diffusers' and its options. An option whose type is one literal has that
value alone here.
"""

import dataclasses
from typing import Any, Literal

from diffjax.errors import UserError
from diffjax.interop.scheduler_steps import IndexDDIM, IndexPNDM
from diffjax.interop.scheduler_tables import Betas, tabled
from diffjax.interop.scheduler_times import NoiseLevels, TrainingSteps
from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.samplers.ddpm import DDPM
from diffjax.samplers.deis import DEIS
from diffjax.samplers.dpmpp_2m_sde import DPMpp2MSDE
from diffjax.samplers.dpmpp_3m_sde import DPMpp3MSDE
from diffjax.samplers.euler import Euler
from diffjax.samplers.euler_ancestral import EulerAncestral
from diffjax.samplers.heun import Heun
from diffjax.samplers.lms import LMS
from diffjax.samplers.unipc import UniPC
from diffjax.schedules.base import Discrete
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.linear import Linear
from diffjax.schedules.scaled_linear import ScaledLinear
from diffjax.spacings.base import Spacing
from diffjax.typing import Target

Off = Literal[False]
Kind = Literal["linspace", "leading", "trailing"]
TARGETS: dict[str, Target] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """What a scheduler of diffusers stands for.

    spacing: of its times; `sampler.spacing` is another. unit_noise: x begins with unit noise, and
    otherwise with sigma at the first time. limit: where there is one, x0 is kept in
    [-limit, limit], and eps consistent with it (`guidance.clip_x0`).
    """

    process: Process
    sampler: Sampler
    spacing: Spacing
    unit_noise: bool = True
    limit: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of all these classes."""

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[float] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Kind = "linspace"
    steps_offset: int = 0

    def scheduler(self) -> Scheduler:
        """What the options stand for. Raises UserError for values that do not go together."""
        raise NotImplementedError

    def schedule(self) -> Discrete:
        steps, zero = self.num_train_timesteps, bool(getattr(self, "rescale_betas_zero_snr", False))
        if self.trained_betas is not None:
            return Betas(steps, table=tuple(self.trained_betas), zero_terminal_snr=zero)
        if self.beta_schedule == "squaredcos_cap_v2":
            return Cosine(steps, zero_terminal_snr=zero)
        kind = Linear if self.beta_schedule == "linear" else ScaledLinear
        return kind(steps, self.beta_start, self.beta_end, zero_terminal_snr=zero)

    def process(self, schedule: Discrete, **options: Any) -> Process:
        return Process(schedule, TARGETS[self.prediction_type], **options)

    def training_steps(self, **options: Any) -> TrainingSteps:
        options = {"highest": self.num_train_timesteps, **options}
        return TrainingSteps(self.timestep_spacing, self.steps_offset, **options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholded(Options):
    """Dynamic thresholding, which with its default sample_max_value clips to [-1, 1]."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    @property
    def limit(self) -> float | None:
        if self.thresholding and self.sample_max_value != 1:
            raise UserError(
                f"thresholding=true with sample_max_value={self.sample_max_value} is not "
                "supported: only 1.0 is"
            )
        return 1.0 if self.thresholding else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped(Thresholded):
    """A bound on x0, unless it is thresholded."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0

    @property
    def limit(self) -> float | None:
        return super().limit or (self.clip_sample_range if self.clip_sample else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPMScheduler(Clipped):
    timestep_spacing: Kind = "leading"
    variance_type: Literal["fixed_small", "fixed_small_log", "fixed_large", "learned_range"] = (
        "fixed_small"
    )
    rescale_betas_zero_snr: bool = False

    def scheduler(self) -> Scheduler:
        small = self.variance_type.startswith("fixed_small")
        if not small and (self.timestep_spacing == "trailing" or self.steps_offset):
            raise UserError(
                f"variance_type={self.variance_type!r} with timestep_spacing="
                f"{self.timestep_spacing!r} and steps_offset={self.steps_offset} is not supported: "
                "diffusers adds noise to the finished image"
            )
        learned = self.variance_type == "learned_range"
        process = self.process(self.schedule(), learned_variance=learned)
        sampler = DDPM("small" if small else "learned" if learned else "large")
        return Scheduler(process, sampler, self.training_steps(), limit=self.limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIMScheduler(Clipped):
    timestep_spacing: Kind = "leading"
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False

    def scheduler(self) -> Scheduler:
        kind = self.timestep_spacing
        sampler = IndexDDIM(kind, clean=self.set_alpha_to_one, limit=self.limit)
        spacing = self.training_steps(whole=False)
        return Scheduler(self.process(self.schedule()), sampler, spacing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PNDMScheduler(Options):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading"] = "leading"
    skip_prk_steps: Literal[True] = True
    set_alpha_to_one: bool = False

    def scheduler(self) -> Scheduler:
        process = self.process(self.schedule())
        last = 0.0 if self.set_alpha_to_one else 1 / self.num_train_timesteps
        spacing = self.training_steps(last=last)
        return Scheduler(process, IndexPNDM("v" if process.target == "v" else "eps"), spacing)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levelled(Options):
    """Noise levels by a law of their own, in place of those of training steps."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: Off = False

    @property
    def law(self) -> Literal["karras", "exponential"] | None:
        if self.use_karras_sigmas and self.use_exponential_sigmas:
            raise UserError("use_karras_sigmas and use_exponential_sigmas are both on: choose one")
        if self.use_karras_sigmas:
            return "karras"
        return "exponential" if self.use_exponential_sigmas else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exploding(Levelled):
    """Schedulers of x over alpha, whose times need not be whole."""

    def exploding(self, sampler: Sampler, last: float = 0.0, **ends: float | None) -> Scheduler:
        """low and high: the ends of levels by a law, where they are not of the training steps."""
        schedule, law = self.schedule(), self.law
        if schedule.zero_terminal:
            schedule = tabled(schedule)
        even = self.timestep_spacing == "linspace"
        within = self.training_steps(whole=not even, last=last)
        if law is not None:
            spacing: Spacing = NoiseLevels(law, within, last=last, **ends)
        else:
            spacing, schedule = within, tabled(schedule, straight=True) if even else schedule
        unit = self.timestep_spacing == "leading"
        return Scheduler(self.process(schedule), sampler, spacing, unit)

    @property
    def first_step(self) -> float:
        return 1 / self.num_train_timesteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerDiscreteScheduler(Exploding):
    rescale_betas_zero_snr: bool = False
    interpolation_type: Literal["linear"] = "linear"
    sigma_min: float | None = None
    sigma_max: float | None = None
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    def scheduler(self) -> Scheduler:
        last = 0.0 if self.final_sigmas_type == "zero" else self.first_step
        scheduler = self.exploding(Euler(), last, low=self.sigma_min, high=self.sigma_max)
        if self.timestep_type == "continuous" and self.prediction_type == "v_prediction":
            process = dataclasses.replace(scheduler.process, time_input="c_noise")
            return dataclasses.replace(scheduler, process=process)
        return scheduler


@dataclasses.dataclass(frozen=True, kw_only=True)
class EulerAncestralDiscreteScheduler(Exploding):
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = False

    def scheduler(self) -> Scheduler:
        return self.exploding(EulerAncestral())


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeunDiscreteScheduler(Exploding):
    beta_start: float = 0.00085
    beta_end: float = 0.012
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def scheduler(self) -> Scheduler:
        limit = self.clip_sample_range if self.clip_sample else None
        return dataclasses.replace(self.exploding(Heun()), limit=limit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMSDiscreteScheduler(Exploding):
    def scheduler(self) -> Scheduler:
        return self.exploding(LMS())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver(Levelled, Thresholded):
    """Schedulers of whole times, that leave out the last of one more."""

    solver_order: int = 2
    lower_order_final: bool = True
    use_exponential_sigmas: Off = False  # diffusers cuts their times down to whole ones
    use_flow_sigmas: Off = False
    flow_shift: float = 1.0
    use_dynamic_shifting: Off = False
    time_shift_type: Literal["exponential"] = "exponential"

    def solving(self, sampler: Sampler, last: float, highest: int | None = None) -> Scheduler:
        schedule = self.schedule()
        if schedule.zero_terminal:
            schedule = tabled(schedule)
        process, limit = self.process(schedule), self.limit
        if self.law is not None:
            process = dataclasses.replace(process, time_input="whole_index")
            return Scheduler(process, sampler, NoiseLevels(self.law, last=last), limit=limit)
        spacing = self.training_steps(
            left_out=True, last=last, highest=highest or self.num_train_timesteps
        )
        return Scheduler(process, sampler, spacing, limit=limit)

    @property
    def last(self) -> float:
        final = getattr(self, "final_sigmas_type", "sigma_min")
        return 0.0 if final == "zero" else 1 / self.num_train_timesteps

    def check_order(self) -> None:
        if not 1 <= self.solver_order <= 3:
            raise UserError(f"solver_order={self.solver_order}: choose 1, 2 or 3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepScheduler(Solver):
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    euler_at_final: bool = False
    use_lu_lambdas: Off = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lambda_min_clipped: float = -float("inf")
    variance_type: Literal["learned", "learned_range"] | None = None
    rescale_betas_zero_snr: bool = False

    def scheduler(self) -> Scheduler:
        self.check_order()
        if self.euler_at_final and self.final_sigmas_type == "sigma_min":
            raise UserError(
                "euler_at_final=True with final_sigmas_type='sigma_min' is not supported"
            )
        scheduler = self.solving(self._sampler(), self.last, self._highest())
        if self.variance_type is None:
            return scheduler
        process = dataclasses.replace(scheduler.process, learned_variance=True)
        return dataclasses.replace(scheduler, process=process)

    def _sampler(self) -> Sampler:
        eta = 1.0 if self.algorithm_type.startswith("sde") else 0.0
        if self.solver_order == 1:
            return DDIM(eta)
        if self.solver_order == 2:
            return DPMpp2MSDE(eta, self.solver_type, self.lower_order_final)
        if eta:
            raise UserError(
                "solver_order=3 with algorithm_type='sde-dpmsolver++' is not supported: "
                "the last term of diffusers' formula has the wrong sign: choose 2"
            )
        return DPMpp3MSDE(eta, self.solver_type, self.lower_order_final)

    def _highest(self) -> int:
        """How many training steps have a half log-SNR of lambda_min_clipped or more."""
        half = self.schedule().log_snr_table / 2
        return int((half >= self.lambda_min_clipped).sum())


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPCMultistepScheduler(Solver):
    predict_x0: Literal[True] = True
    solver_type: Literal["bh1", "bh2"] = "bh2"
    disable_corrector: tuple[()] = ()
    solver_p: None = None
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    rescale_betas_zero_snr: bool = False
    sigma_min: None = None
    sigma_max: None = None
    shift_terminal: None = None

    def scheduler(self) -> Scheduler:
        self.check_order()
        if self.law and self.final_sigmas_type == "sigma_min":
            raise UserError(
                "use_karras_sigmas=True with final_sigmas_type='sigma_min' is not supported: "
                "the last step of diffusers has no length"
            )
        b: Literal[1, 2] = 1 if self.solver_type == "bh1" else 2
        return self.solving(UniPC(self.solver_order, b, self.lower_order_final), self.last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DEISMultistepScheduler(Solver):
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"

    def scheduler(self) -> Scheduler:
        self.check_order()
        # With a law the last step begins at the first training step's noise, and ends there. It
        # is a step nonetheless: at one time it would be left out, and those before it counted so.
        last = self.last * (1 - 1e-5 * bool(self.law))
        return self.solving(DEIS(self.solver_order, self.lower_order_final), last)


CLASSES = {
    kind.__name__: kind
    for kind in (
        DDPMScheduler,
        DDIMScheduler,
        PNDMScheduler,
        EulerDiscreteScheduler,
        EulerAncestralDiscreteScheduler,
        HeunDiscreteScheduler,
        LMSDiscreteScheduler,
        DPMSolverMultistepScheduler,
        UniPCMultistepScheduler,
        DEISMultistepScheduler,
    )
}

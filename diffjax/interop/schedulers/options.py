"""What a scheduler of diffusers stands for, and the options that several of their classes share.

Classes of options have the fields of diffusers' classes, with the same defaults. An option whose
type is one literal has that value alone here.
"""

import abc
import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.interop.schedulers.betas import Betas
from diffjax.interop.schedulers.times import TrainingSteps
from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.schedules.base import Discrete
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.linear import Linear
from diffjax.schedules.scaled_linear import ScaledLinear
from diffjax.spacings.base import Spacing
from diffjax.typing import Target

MOST_STEPS = 1_000_000  # training steps; each is a number in a table
Kind = Literal["linspace", "leading", "trailing"]
TARGETS: dict[str, Target] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """What a scheduler of diffusers stands for.

    spacing: of its times; `sampler.spacing` is another. unit_noise: x begins as noise of the size
    that noisy data have, 1 on a variance-preserving schedule; otherwise as their noise, sigma.
    limit: where there is one, x0 is kept in [-limit, limit], and eps consistent with it
    (`guidance.clip_x0`).
    """

    process: Process
    sampler: Sampler
    spacing: Spacing
    unit_noise: bool = True
    limit: float | None = None

    def noise_scale(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """What unit noise is multiplied by to begin at time t in (0, 1]."""
        alpha, sigma = self.process.schedule.alpha_sigma(t)
        return jnp.sqrt(alpha**2 + sigma**2) if self.unit_noise else sigma


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(abc.ABC):
    """The options of one of diffusers' classes."""

    @abc.abstractmethod
    def scheduler(self) -> Scheduler:
        """What they stand for. Raises UserError for values that do not go together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discretised(Options):
    """A network that was trained on the noise levels of a table."""

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[float] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Kind = "linspace"
    steps_offset: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.num_train_timesteps <= MOST_STEPS:
            raise UserError(
                f"num_train_timesteps={self.num_train_timesteps}: choose 1 to {MOST_STEPS:,}"
            )
        if self.steps_offset < 0:
            raise UserError(f"steps_offset={self.steps_offset}: choose 0 or more")

    @property
    def zero_terminal(self) -> bool:
        """Whether no signal is left at the last training step."""
        return False

    @property
    def first(self) -> float:
        """The time of the first training step."""
        return 1 / self.num_train_timesteps

    @property
    def schedule(self) -> Discrete:
        steps, zero = self.num_train_timesteps, self.zero_terminal
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
class Rescaled(Discretised):
    """Betas that may be rescaled to leave no signal at the last step."""

    rescale_betas_zero_snr: bool = False

    @property
    def zero_terminal(self) -> bool:
        return self.rescale_betas_zero_snr


@dataclasses.dataclass(frozen=True, kw_only=True)
class Levelled(Options):
    """Noise levels by a law, in place of those of training steps."""

    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: Literal[False] = False

    @property
    def law(self) -> Literal["karras", "exponential"] | None:
        if self.use_karras_sigmas and self.use_exponential_sigmas:
            raise UserError("use_karras_sigmas and use_exponential_sigmas are both on: choose one")
        if self.use_karras_sigmas:
            return "karras"
        return "exponential" if self.use_exponential_sigmas else None


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

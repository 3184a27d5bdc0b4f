"""A student that draws in a few steps, or in one, what its teacher draws in many."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Key

import diffjax.samplers
import diffjax.time_laws
import diffjax.weightings
from diffjax.errors import UserError
from diffjax.guidance import clip_x0
from diffjax.objectives.consistency import IMPROVED, consistency_loss
from diffjax.objectives.distribution import distribution_matching_loss
from diffjax.objectives.noising import LossFn
from diffjax.objectives.progressive import progressive_loss
from diffjax.objectives.teacher import Teacher
from diffjax.process import Process
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.tasks.base import Component, Source
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.time_laws.base import TimeLaw
from diffjax.training.step import Loss
from diffjax.typing import Cond, Denoiser, Params
from diffjax.weightings.base import Weighting
from diffjax.weightings.truncated_snr import TruncatedSNR

__all__ = ["Distillation"]

Method = Literal[
    "progressive", "consistency_distillation", "consistency_training", "distribution_matching"
]
# The options that a method has, of those that not all have.
OPTIONS: dict[Method, tuple[str, ...]] = {
    "progressive": ("weighting",),
    "consistency_distillation": ("intervals", "times", "solver"),
    "consistency_training": ("intervals", "times"),
    "distribution_matching": ("critic_rate",),
}
TEACHER, CRITIC = "teacher", "critic"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(DenoiserTask):
    """The teacher's network, trained further: it starts from the teacher's weights.

    method: progressive distillation in student_steps steps, with `weighting`; consistency
    distillation, whose path is cut into `intervals` that `solver` crosses; or consistency training,
    which follows no teacher. `times` says how often each interval comes. Distribution matching
    trains a second network, the critic, at the rate critic_rate, which starts from the teacher's
    weights too, and draws in student_steps steps. Schedule, target and condition are the
    teacher's, and a learnt schedule is not learnt further. Raises UserError for an option of
    another method.
    """

    teacher: Source
    method: Method = "progressive"
    student_steps: int = 8
    weighting: Weighting = TruncatedSNR()  # noqa: RUF009 frozen, as the next
    intervals: int = 32
    times: TimeLaw = IMPROVED
    solver: Sampler = DDIM()  # noqa: RUF009
    critic_rate: float = 1e-3

    specs: ClassVar[dict[str, Any]] = {
        **DenoiserTask.specs,
        "weighting": diffjax.weightings,
        "times": diffjax.time_laws,
        "solver": diffjax.samplers,
    }

    training_only: ClassVar[tuple[str, ...]] = (TEACHER,)

    def __post_init__(self) -> None:
        super().__post_init__()
        others = {option for options in OPTIONS.values() for option in options}
        for field in dataclasses.fields(self):
            if field.name in others - {*OPTIONS[self.method]} and (
                getattr(self, field.name) != field.default
            ):
                raise UserError(
                    f"method {self.method} knows no {field.name}: leave it out", option=field.name
                )

    @property
    def consistent(self) -> bool:
        return self.method != "progressive"

    @property
    def criticised(self) -> bool:
        """Whether a critic is trained beside the student."""
        return self.method == "distribution_matching"

    def networks(self) -> dict[str, nn.Module]:
        own = super().networks()
        return {**own, CRITIC: self.model} if self.criticised else own

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        """The teacher's parameters, where they are given."""
        own = {DENOISER: frozen[TEACHER]} if TEACHER in frozen else super().init(key, frozen)
        if self.criticised:
            own[CRITIC] = jax.tree.map(jnp.array, own[DENOISER])  # buffers of its own
        return own

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        learnt = frozen[TEACHER].params  # a schedule's ends are tables of the compiled step
        process = self.process.bind(learnt)
        self._loss(process, None)  # refuses what cannot be, before anything is compiled

        def function(params: Any, given: Any, keys: Any, batch: Any, gather: Any) -> Any:
            own = self._loss(process, self._teacher(given[TEACHER]))
            asked = params[DENOISER]
            if self.criticised:
                asked = {"student": params[DENOISER], "critic": params[CRITIC]}
            return own(asked, keys, self.encoded(frozen, given, keys, batch))

        return Loss(function)

    def _teacher(self, params: Params) -> Teacher:
        """The teacher as it is drawn from: its x0 kept within the space's bound."""
        process = dataclasses.replace(self.process, consistent=False).bind(params)

        def of(cond: Cond) -> Denoiser:
            denoise = process.denoiser(self.model.apply, params, cond)
            limit = self.space.limit
            return denoise if limit is None else clip_x0(denoise, process.schedule, limit)

        return of

    def _loss(self, process: Process, teacher: Teacher | None) -> LossFn:
        apply, condition = self.model.apply, self.condition
        if self.method == "progressive":
            steps, weighting = self.student_steps, self.weighting
            return progressive_loss(
                process, apply, teacher or _unseen, steps, weighting=weighting, condition=condition
            )
        if self.criticised:
            return distribution_matching_loss(
                process, apply, teacher or _unseen, self.student_steps, condition=condition
            )
        follows = self.method == "consistency_distillation"
        return consistency_loss(
            process, apply, self.intervals, teacher if follows else None,
            solver=self.solver, times=self.times, condition=condition,
        )  # fmt: skip


def _unseen(cond: Cond) -> Denoiser:
    raise UserError("no teacher is given")

"""A denoiser that learns from images."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import diffjax.time_laws
import diffjax.weightings
from diffjax.errors import UserError
from diffjax.objectives.average_velocity import mean_flow_loss, shortcut_loss
from diffjax.objectives.consistency import from_nothing
from diffjax.objectives.denoising import denoising_loss
from diffjax.objectives.noising import LossFn
from diffjax.objectives.variational import continuous_vlb_loss, hybrid_loss, vlb_loss
from diffjax.tasks.base import Component
from diffjax.tasks.denoisers import DENOISER, DenoiserTask
from diffjax.time_laws.base import TimeLaw
from diffjax.time_laws.grid import Grid
from diffjax.training.step import Loss
from diffjax.weightings.base import Weighting
from diffjax.weightings.simple import Simple

__all__ = ["Diffusion"]

Objective = Literal[
    "denoising", "hybrid", "vlb", "continuous_vlb", "mean_flow", "shortcut", "consistency"
]
LOSSES: dict[Objective, Callable[..., LossFn]] = {
    "denoising": denoising_loss,
    "hybrid": hybrid_loss,
    "vlb": vlb_loss,
    "continuous_vlb": continuous_vlb_loss,
    "mean_flow": mean_flow_loss,
    "shortcut": shortcut_loss,
    "consistency": from_nothing,
}
AVERAGE: tuple[Objective, ...] = ("mean_flow", "shortcut")
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion(DenoiserTask):
    """Noised images back to images, by one of the losses.

    Raises UserError for an option that the loss does not have, and for a network that is told spans
    under a loss that teaches none.
    """

    objective: Objective = "denoising"
    weighting: Weighting = Simple()  # noqa: RUF009 frozen, as the next
    times: TimeLaw = Grid()  # noqa: RUF009
    offset_noise: float = 0.0
    huber: float = 0.0
    learned_guidance: float = 1.0
    intervals: int = 32

    specs: ClassVar[dict[str, Any]] = {
        **DenoiserTask.specs,
        "weighting": diffjax.weightings,
        "times": diffjax.time_laws,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model.told_spans and self.objective not in AVERAGE:
            raise UserError(
                f"loss {self.objective} teaches no steps of a length: choose loss "
                f"{' or '.join(AVERAGE)}, or leave out the network's spans",
                option="loss",
            )

    @property
    def consistent(self) -> bool:
        return self.objective == "consistency"

    def loss(self, frozen: Mapping[str, Component], *, remat: bool = False) -> Loss:
        """remat: blocks are computed again for the gradient, which saves memory."""
        model = self.model
        if remat:
            if not hasattr(model, "remat"):
                name = type(model).__name__
                raise UserError(f"a {name} cannot compute its blocks again", option="remat")
            model = model.clone(remat=True)
        own = LOSSES[self.objective](
            self.process, model.apply, condition=self.condition, **self._options()
        )
        return Loss(
            lambda params, given, keys, batch, gather: own(
                params[DENOISER], keys, self.encoded(frozen, given, keys, batch)
            )
        )

    def _options(self) -> dict[str, Any]:
        """The loss's own options. Raises UserError for one that is given and that it lacks."""
        known = {name: inspect.signature(loss).parameters for name, loss in LOSSES.items()}
        options = {}
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for option in (
            "weighting",
            "times",
            "offset_noise",
            "huber",
            "learned_guidance",
            "intervals",
        ):
            value = getattr(self, option)
            if option in known[self.objective]:
                options[option] = value
            elif value != defaults[option]:
                others = " or ".join(name for name, options in known.items() if option in options)
                raise UserError(
                    f"loss {self.objective} knows no {option}: leave it out, or choose loss "
                    f"{others}",
                    option=option,
                )
        return options

"""What an optimizer is."""

import abc
import dataclasses

import optax


@dataclasses.dataclass(frozen=True)
class Optimizer(abc.ABC):
    """A rule of the step that a gradient gives, of parameters that are one network's."""

    @abc.abstractmethod
    def transformation(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """The rule at this learning rate, which may differ from step to step."""

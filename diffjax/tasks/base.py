"""What a kind of run is, and the components that a run is made of."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

from diffjax import spec
from diffjax.errors import UserError
from diffjax.guidance.plan import Guidance
from diffjax.samplers.base import Sampler
from diffjax.spacings.base import Spacing
from diffjax.training.run import RunFolder
from diffjax.training.step import Loss
from diffjax.typing import Images, Params

Self = TypeVar("Self", bound="Task")
Preview = Callable[[int, Params], None]  # of a step and the EMA parameters of each component


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a component's weights come from: another run's EMA weights, or files of weights.

    component: its name there. digest: the weights' checksum. path: where they lay, which is no part
    of what a run is.
    """

    path: str
    component: str
    digest: str


@dataclasses.dataclass(frozen=True)
class Component:
    """A network with its weights. source: None for a component of this run, trained here."""

    model: nn.Module
    params: Params
    source: Source | None = None

    @property
    def trained(self) -> bool:
        """Whether this run trains it."""
        return self.source is None

    @property
    def spec(self) -> str:
        """The text that builds the network again."""
        return spec.render(self.model)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of a draw: see `runs.Run.sample`. Raises UserError for a batch_size below 1."""

    labels: Sequence[Any] | np.ndarray | None = None
    num: int | None = None
    steps: int = 50
    sampler: str | Sampler = "ddim"
    spacing: Spacing | None = None
    guidance: float | Sequence[float] | Guidance = 1.0
    negative: Sequence[Any] | np.ndarray | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size}: choose 1 or more", option="batch_size")

    def check_plain(self, who: str) -> None:
        """Raises UserError for what is of no use to a task that draws in one step."""
        for option in ("labels", "steps", "sampler", "spacing", "guidance", "negative"):
            # Some may be arrays.
            if not np.array_equal(getattr(self, option), getattr(Asked(), option)):
                raise UserError(f"{who} draws in one step and knows no {option}: leave it out")

    @property
    def count(self) -> int:
        """How many images. Raises UserError where nothing says."""
        given = () if self.labels is None else np.atleast_1d(self.labels)
        found = len(given) if self.num is None else self.num
        if found < 1:
            raise UserError("sample needs a number of images: give num or labels")
        return found


class Samples(NamedTuple):
    """Images in [-1, 1], and the trajectory of the first ones."""

    images: Images
    film: Float[Array, "F M H W C"]


class Task(abc.ABC):
    """A kind of run, as a frozen dataclass: its fields are what makes a run the run it is.

    A task is a module of diffjax.tasks whose `__all__` names its one class. Fields named in `specs`
    hold objects that a spec of the package builds, and JSON holds the specs.
    """

    specs: ClassVar[Mapping[str, ModuleType]] = {}
    training_only: ClassVar[tuple[str, ...]] = ()  # sources that drawing does without
    drawing_only: ClassVar[tuple[str, ...]] = ()  # sources that init and the loss do without
    image_shape: tuple[int, int, int]

    @property
    def name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @property
    def sources(self) -> dict[str, Source]:
        """The components that are not trained here, by name."""
        values = {name: getattr(self, name) for name in _fields(type(self))}
        return {name: value for name, value in values.items() if isinstance(value, Source)}

    @property
    @abc.abstractmethod
    def batch_keys(self) -> tuple[str, ...]:
        """The parts of a batch that the loss reads."""

    @abc.abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """The components that are trained here, by name."""

    @abc.abstractmethod
    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        """Fresh parameters of the trained components, by name; fit for jit and eval_shape.

        frozen: the parameters of the components that are not trained here.
        """

    @abc.abstractmethod
    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        """What is minimised. It reads the parameters of each component by its name."""

    @abc.abstractmethod
    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """A function that draws or measures weights for a person, into the folder.

        shown: what may change when the run is taken up again, of a type of the task's own.
        """

    def sample(
        self, components: Mapping[str, Component], key: Key[Array, ""], asked: Asked
    ) -> Samples:
        """Images that a run has learnt to draw. Raises UserError for a task that draws none."""
        raise UserError(f"a {self.name} run draws no images: give a diffusion or gan run")

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, without the fields that are at their defaults."""
        values = {}
        for name, field in _fields(type(self)).items():
            value = getattr(self, name)
            if value == field.default:
                # Or runs made before there was such a field would be other runs.
                continue
            if name in self.specs:
                value = spec.render(value)
            values[name] = dataclasses.asdict(value) if isinstance(value, Source) else value
        return values

    @classmethod
    def from_dict(cls: type[Self], values: Mapping[str, Any]) -> Self:
        """The task that `to_dict` told of. Raises UserError for values of no such task."""
        try:
            return cls(**{name: cls._read(name, value) for name, value in values.items()})
        except TypeError as error:
            raise UserError(f"a {cls.__name__} cannot be made of these fields: {error}") from error

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        """A field's value, from what JSON held."""
        if name not in _fields(cls):
            raise UserError(f"a {cls.__name__} has no {name}")
        if name in cls.specs:
            return spec.build(value, cls.specs[name])
        if isinstance(value, dict):
            return Source(**value)
        return tuple(value) if isinstance(value, list) else value


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def params_of(components: Mapping[str, Component]) -> dict[str, Params]:
    """The parameters of each component, by its name."""
    return {name: component.params for name, component in components.items()}


def plain(
    loss: Callable[[Params, Key[Array, "B"], Mapping[str, Array]], Any], component: str
) -> Loss:
    """A loss of one component alone."""
    return Loss(lambda params, frozen, keys, batch, gather: loss(params[component], keys, batch))


def shapes(task: Task, frozen: Mapping[str, Params]) -> dict[str, Params]:
    """The shapes of the trained components' parameters."""
    return jax.eval_shape(lambda key: task.init(key, frozen), jax.random.key(0))

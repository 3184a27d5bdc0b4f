"""What conditions on a class share: number and names of the classes, and how one is asked for."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int32

from diffjax.conditions.base import Condition, in_turn
from diffjax.errors import UserError, listed

Self = TypeVar("Self", bound="Classes")


@dataclasses.dataclass(frozen=True)
class Classes(Condition):
    """A class, from 0 to num_classes - 1, from a batch's `label`.

    names: what the classes are called; empty where they are not. Raises UserError for fewer than
    one class and for another number of names.
    """

    num_classes: int
    names: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self).__module__.rpartition(".")[2]
        if self.num_classes < 1:
            raise UserError(f"{kind}(num_classes={self.num_classes}): there is at least one class")
        if len(self.names) not in (0, self.num_classes):
            raise UserError(f"{kind}: {len(self.names)} names for {self.num_classes} classes")

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return ("label",)

    @property
    def classes(self) -> int:
        return self.num_classes

    def named(self: Self, names: Sequence[str]) -> Self:
        return dataclasses.replace(self, names=tuple(names))

    def labels(self, values: Sequence[Any] | np.ndarray | None, num: int) -> Int32[np.ndarray, "N"]:
        """`num` labels in turn, by default all classes.

        A string is a class's name, or else its number. Raises UserError for what is no class.
        """
        if values is None:
            return (np.arange(num) % self.num_classes).astype(np.int32)
        if not np.ndim(values) or not len(values):
            raise UserError(
                f"{values!r} are no labels: give a list of one or more, or leave them out",
                option="labels",
            )
        return in_turn([self._label(value) for value in values], num)

    def _label(self, value: Any) -> np.int32:
        text = str(value).strip()
        if isinstance(value, str) and text in self.names:
            return np.int32(self.names.index(text))
        if text.isdecimal() and int(text) < self.num_classes:
            return np.int32(text)
        names = f", or by name: {listed(self.names)}" if self.names else ""
        raise UserError(
            f"{value!r} is no class: choose from 0 to {self.num_classes - 1}{names}",
            option="labels",
        )

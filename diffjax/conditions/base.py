"""What a condition is: where it comes from, what stands for none, and how training hides it."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffjax.errors import UserError
from diffjax.randomness import fold_in
from diffjax.typing import Cond, Keys

Mask = Literal["sample", "element"]
Self = TypeVar("Self", bound="Condition")
DROPPED = 4  # folded into a sample's key: the draw that hides its condition


@dataclasses.dataclass(frozen=True)
class Condition(abc.ABC):
    """A kind of condition. Its values are trees of arrays that lead with the batch's B.

    drop: the probability that training hides a sample's condition (Ho & Salimans 2022, algorithm
    1). Only a network that was trained so can be guided away from its null condition.
    Raises UserError unless drop is in [0, 1).
    """

    drop: float = dataclasses.field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise UserError(
                f"cond_drop={self.drop}: choose 0 (none) up to, but not, 1", option="cond_drop"
            )

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """What it needs of a batch."""
        return ()

    @property
    def classes(self) -> int | None:
        """The number of classes; None where the condition is no class."""
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called; empty where they are not."""
        return ()

    def named(self: Self, names: Sequence[str]) -> Self:
        """The condition with its classes called so; itself where it is no class."""
        return self

    def fits(self, names: Sequence[str]) -> bool:
        """Whether data whose classes are called so have the same ones, as far as both are known."""
        return not names or not self.names or tuple(names) == self.names

    @abc.abstractmethod
    def example(self, batch_size: int) -> Cond:
        """A condition of zeros, of the shapes and dtypes that a network takes."""

    @abc.abstractmethod
    def of_batch(self, batch: Mapping[str, Array]) -> Cond:
        """The condition of a batch, from its `batch_keys`."""

    @abc.abstractmethod
    def asked(self, values: Sequence[Any] | np.ndarray | None, num: int) -> Cond:
        """The condition of `num` samples from what a person asks for; `values` repeat in turn.

        Without values, each class in turn. Raises UserError for values that are no such condition.
        """

    @abc.abstractmethod
    def null(self, cond: Cond) -> Cond:
        """What stands for no condition, in the shape of `cond`."""

    def hide(self, keys: Keys, cond: Cond) -> Cond:
        """The condition with each sample's hidden with probability `drop`, by its own key."""
        if not self.drop:
            return cond
        hidden = jax.vmap(lambda key: jax.random.bernoulli(key, self.drop))(fold_in(keys, DROPPED))

        def pick(null: Array, given: Array) -> Array:
            return jnp.where(hidden.reshape(-1, *[1] * (given.ndim - 1)), null, given)

        return jax.tree.map(pick, self.null(cond), cond)

    def unwanted(self, cond: Cond) -> Cond:
        """The null condition, to guide away from. Raises UserError where training never used it."""
        if not self.drop:
            raise UserError(
                "guidance needs a prediction to go away from, and this network was trained with "
                "its condition always there: train with cond_drop above 0, or give a negative "
                "condition or a weak network",
                option="cond_drop",
            )
        return self.null(cond)


def in_turn(values: Sequence[Any] | np.ndarray, num: int) -> np.ndarray:
    """The rows of `values`, repeated up to `num` rows. Raises UserError where there are none."""
    rows = np.asarray(values)
    if not rows.ndim or not len(rows):
        raise UserError(f"a list of conditions is needed, not {values!r}")
    return rows[np.arange(num) % len(rows)]


Labels = Int[Array, "B"]


def rows_of(cond: Cond, index: Any) -> Cond:
    """The condition of those samples alone."""
    return jax.tree.map(lambda leaf: leaf[index], cond)

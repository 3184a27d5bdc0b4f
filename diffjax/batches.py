"""Batches of one shape, over as many rows as there are."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Shaped


def padded(count: int, size: int) -> Iterator[tuple[int, Int[np.ndarray, "B"]]]:
    """The batches of `count` rows: the place of each batch's first row, and its rows' indices.

    Each batch has `size` rows, so that a function of them compiles once. The last batch is filled
    up with rows from the first on: keep `count` of the joined results.
    """
    for first in range(0, count, size):
        yield first, np.arange(first, first + size) % count


def in_batches(
    function: Callable[[Shaped[np.ndarray, " B *n"]], Any],
    rows: Shaped[np.ndarray, " N *n"],
    batch_size: int,
) -> Any:
    """What `function` returns for `rows`, its arrays joined along their first axis; N >= 1."""
    count = len(rows)
    found = [jax.device_get(function(rows[some])) for _, some in padded(count, batch_size)]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)

"""A compiled function of images, over as many as there are."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float


def in_batches(
    function: Callable[[Float[np.ndarray, "B H W C"]], Any],
    images: Float[np.ndarray, "N H W C"],
    batch_size: int,
) -> Any:
    """What `function` says of `images`, its arrays joined along their first axis; any N from 1.

    The last batch is filled up, so that every batch has one shape and compiles once.
    """
    count, found = len(images), []
    for first in range(0, count, batch_size):
        batch = images[np.arange(first, first + batch_size) % count]
        found.append(jax.device_get(function(batch)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)

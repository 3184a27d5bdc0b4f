"""Dropout whose masks belong to the samples, not to the batch they happen to be computed in."""

import contextlib
import zlib
from typing import Any

import jax
from flax import linen as nn

from diffjax.randomness import fold_in
from diffjax.typing import Keys


def by_sample(keys: Keys) -> contextlib.AbstractContextManager[None]:
    """While this is entered, each nn.Dropout draws sample i's mask from keys[i] and its own path.

    So a mask depends on neither batch size nor device count. The layer's input leads with B.
    """

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if not isinstance(context.module, nn.Dropout):
            return call(*args, **kwargs)
        own = fold_in(keys, zlib.crc32("/".join(context.module.path).encode()))
        x, *options = args
        return jax.vmap(lambda key, x: call(x, *options, rng=key, **kwargs))(own, x)

    return nn.intercept_methods(intercept)

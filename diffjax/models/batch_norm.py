"""Batch normalisation whose running statistics live among a network's parameters.

They lie there under "batch_stats", so that whatever copies, averages, saves or loads parameters
takes them along. No gradient reaches them: what a call in training moves them to is given to
whoever `collect`s it, as the train step does.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Float

from diffjax.typing import Params

STATISTICS = "batch_stats"  # also what Linen calls the collection
_collected: contextvars.ContextVar[list[Params] | None] = contextvars.ContextVar(
    "collected", default=None
)


@contextlib.contextmanager
def collect() -> Iterator[list[Params]]:
    """While this is entered, its list gets the statistics that each call in training moves to."""
    moved: list[Params] = []
    token = _collected.set(moved)
    try:
        yield moved
    finally:
        _collected.reset(token)


class RunningStatistics(nn.Module):
    """A network that finds its running statistics among its parameters.

    It is called as any other, `apply({"params": params}, ..., train=train)`, and `train` alone
    decides whether they move.
    """

    @nn.nowrap
    def init_with_output(self, *args: Any, **kwargs: Any) -> Any:
        output, variables = super().init_with_output(*args, **kwargs)
        params = dict(variables["params"])
        if STATISTICS in variables:
            params[STATISTICS] = variables[STATISTICS]
        return output, {"params": params}

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        params = dict(variables["params"])
        if STATISTICS not in params:
            return super().apply(variables, *args, **kwargs)
        held = lax.stop_gradient(params.pop(STATISTICS))
        split = {"params": params, STATISTICS: held}
        if not kwargs.get("train", False):
            return super().apply(split, *args, **kwargs)
        output, moved = super().apply(split, *args, mutable=[STATISTICS], **kwargs)
        collected = _collected.get()
        if collected is not None:
            collected.append(moved[STATISTICS])
        return output


class BatchNorm(nn.Module):
    """Normalisation over all but the channels (Ioffe & Szegedy 2015, algorithms 1 and 2).

    In training by the batch's own mean and variance, towards which the running ones move by
    1 - momentum; otherwise by those. As in torch the running variance is the unbiased one.
    """

    train: bool = False
    momentum: float = 0.9
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B *n C"]) -> Float[Array, "B *n C"]:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable(STATISTICS, "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable(STATISTICS, "var", jnp.ones, channels, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if self.train:
            axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
            mean = x.mean(axes)
            var = ((x - mean) ** 2).mean(axes)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                for running, new in ((running_mean, mean), (running_var, unbiased)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * new
        return (x - mean) * (scale * lax.rsqrt(var + self.eps)) + bias

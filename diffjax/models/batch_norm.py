"""Batch normalisation, whose running statistics are model state (diffjax/models/stateful.py)."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Float

from diffjax.models.stateful import STATISTICS


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

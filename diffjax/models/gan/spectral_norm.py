"""Kernels divided by their largest singular value (Miyato et al. 2018), without a state."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

SQUARINGS = 8  # as many as 256 power iterations


def spectral_norm(kernel: Float[Array, "... D"]) -> Float[Array, ""]:
    """The largest singular value of the matrix (..., D).

    The paper carries a vector from step to step, which would be one more thing to restore, and one
    iteration behind. Squaring the Gram matrix k times does 2^k iterations at once, from all starts,
    of which the best is taken: what is missing is under a thousandth, and only where the two
    largest singular values are as near as that. The gradient takes the vectors as given: where they
    are the largest value's, how they turn changes nothing.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    tiny = jnp.finfo(kernel.dtype).tiny

    def square(gram: Float[Array, "D D"]) -> Float[Array, "D D"]:
        gram = gram / jnp.maximum(jnp.trace(gram), tiny)  # or it would run out of range
        return gram @ gram

    gram = lax.stop_gradient(matrix.T @ matrix)
    gram = lax.fori_loop(0, SQUARINGS, lambda _, gram: square(gram), gram)
    vector = gram[:, jnp.argmax(jnp.diagonal(gram))]
    vector = vector / jnp.maximum(jnp.linalg.norm(vector), tiny)
    return jnp.linalg.norm(matrix @ vector)


def normalised(layer: Any, parent: nn.Module) -> Any:
    """The Linen class `layer` whose kernel is used divided by its spectral norm; the bias is not.

    Its parameters are those of `layer`. To be called in `parent`'s own methods.
    """

    def divided(variables: Any) -> Any:
        params = variables["params"]
        kernel = params["kernel"] / spectral_norm(params["kernel"])
        return {**variables, "params": {**params, "kernel": kernel}}

    making = parent.is_initializing()  # then the kernel is wanted as it was drawn
    return nn.map_variables(
        layer, "params", (lambda v: v) if making else divided, init=making, mutable=making
    )

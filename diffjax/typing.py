"""Shapes and the few types that every part of the library speaks.

Images are NHWC in [-1, 1]. Times lie in [0, 1]: 0 is clean, 1 is noise. Keys are one a sample, so
that what a sample draws depends neither on the batch nor on the device it is computed in.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jax import Array
from jaxtyping import Float, Key, PyTree

Images = Float[Array, "B H W C"]
Times = Float[Array, ""] | Float[Array, "B"]
Keys = Key[Array, "B"]
Target = Literal["eps", "x0", "v", "velocity", "score", "edm"]
TimeInput = Literal["index", "whole_index", "count", "sigma", "log_snr", "c_noise"]
Params = PyTree[Any]
Apply = Callable[..., Any]  # a Linen module's: ({"params": ...}, x, t[, cond]) -> images
Gather = Callable[[Any], Any]  # joins the devices' shares of a tree of arrays along B
Cond = PyTree[Any]  # leaves lead with B; None where nothing is conditioned on


class Prediction(NamedTuple):
    """What a network says of a noisy x, in both forms: x = alpha * x0 + sigma * eps.

    `fraction` in [0, 1], where the network learns it, is where the variance of a step lies between
    the logarithms of the posterior's (0) and of the forward step's (1).
    """

    x0: Images
    eps: Images
    fraction: Images | None = None


@runtime_checkable
class Denoiser(Protocol):
    """A network as a sampler sees it: noisy images and a time in, a prediction out."""

    def __call__(self, x: Images, t: Times) -> Prediction: ...

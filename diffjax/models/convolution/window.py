"""What a convolution slides over its images, and what every way of computing one offers."""

from typing import NamedTuple, Protocol, runtime_checkable

from jax import Array
from jaxtyping import Float

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Tensor = Float[Array, "B _H _W _C"]  # what goes in and what comes out differ in all but the batch
Kernel = Float[Array, "h w C K"]


class Window(NamedTuple):
    """A kernel's height and width, its strides, and the zeros around the images."""

    kernel: Pair
    strides: Pair
    pads: Pads

    def outputs(self, size: Pair) -> Pair:
        """Height and width of what comes out where images of `size` go in."""
        vertical, horizontal = (
            (n + sum(pad) - k) // s + 1
            for n, pad, k, s in zip(size, self.pads, self.kernel, self.strides, strict=True)
        )
        return vertical, horizontal


@runtime_checkable
class Path(Protocol):
    """A way to compute a convolution y = x * w and its two gradients, each as NHWC and HWIO."""

    def takes(self, window: Window) -> bool:
        """Whether it can serve such a window."""

    def forward(self, x: Tensor, w: Kernel, window: Window) -> Tensor:
        """The convolution."""

    def input_gradient(self, dy: Tensor, w: Kernel, window: Window, size: Pair) -> Tensor:
        """The gradient for images of `size`, from that for what came out."""

    def weight_gradient(self, x: Tensor, dy: Tensor, window: Window) -> Kernel:
        """The gradient for the kernel."""

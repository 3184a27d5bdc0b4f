"""A denoiser that is told a smaller image."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

import diffjax.models
from diffjax import spec
from diffjax.conditions.base import Condition, Mask
from diffjax.conditions.low_resolution import LowResolution, Small
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.models.backbone import Backbone, check_mask
from diffjax.typing import Images, TimeInput, Times

__all__ = ["Upscaler"]


class Upscaler(Backbone):
    """SR3 (Saharia et al. 2021): a backbone sees the smaller image, enlarged, beside the noisy one.

    net: the spec of that backbone, which takes no condition. Its input has 2 in_channels + 1
    channels: x, the smaller image enlarged `factor` times by bicubic interpolation, and a map of
    the smaller image's noise. Raises UserError for another backbone, and where the factor does not
    divide sample_size.
    """

    net: str
    factor: int = 4
    in_channels: int = 3
    sample_size: int | tuple[int, int] = 32

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    def setup(self) -> None:
        self.backbone = built(self.net)

    def __call__(
        self, x: Images, t: Times, cond: Small, *, train: bool = False
    ) -> Float[Array, "B H W D"]:
        """The backbone's output for noisy images `x` at time(s) `t`, told `cond`.

        Raises UserError unless x is `factor` times as large as the images of cond.
        """
        guide = enlarged(cond.image, self.factor)
        if guide.shape != x.shape:
            raise UserError(
                f"images of {x.shape[1:]} are not drawn of smaller ones of {cond.image.shape[1:]}: "
                f"give those {self.factor} times smaller"
            )
        noise = jnp.broadcast_to(cond.noise[:, None, None, None], (*x.shape[:3], 1))
        return self.backbone(jnp.concatenate([x, guide, noise], axis=-1), t, train=train)

    @property
    def time_input(self) -> TimeInput:
        return built(self.net).time_input

    @property
    def time_rows(self) -> int | None:
        return built(self.net).time_rows

    @nn.nowrap
    def takes(self, drop: float = 0.0, mask: Mask = "sample") -> Condition:
        check_mask(mask, drop, None)
        height, width = _sides(self)
        shape = height // self.factor, width // self.factor, self.in_channels
        return LowResolution(shape, self.factor, drop=drop)


def enlarged(images: Float[Array, "B h w C"], factor: int) -> Images:
    """Images `factor` times larger, by bicubic interpolation (Keys 1981, a = -1/2)."""
    batch, height, width, channels = images.shape
    return jax.image.resize(images, (batch, factor * height, factor * width, channels), "cubic")


def built(net: str) -> Backbone:
    """The backbone of a spec. Raises UserError for another network."""
    model = spec.build(net, diffjax.models)
    if not isinstance(model, Backbone) or not isinstance(model.takes(), Unconditional):
        raise UserError(f"upscaler(net={net!r}): choose a backbone without classes or a condition")
    return model


def _sides(net: Upscaler) -> tuple[int, int]:
    size = net.sample_size
    return (size, size) if isinstance(size, int) else size


def _check(net: Upscaler) -> None:
    """Refuses what cannot be built."""
    seen, wanted = getattr(built(net.net), "in_channels", None), 2 * net.in_channels + 1
    if seen not in (None, wanted):
        raise UserError(f"upscaler: net has in_channels={seen}: set in_channels={wanted}")
    height, width = _sides(net)
    if net.factor < 2 or height % net.factor or width % net.factor:
        raise UserError(
            f"factor={net.factor} does not divide tiles of {height}x{width}: choose 2 or more that "
            "does, or another tile",
            option="factor",
        )

"""A discriminator of patches: a grid of logits per image (Isola et al. 2017, PatchGAN)."""

from functools import partial

from flax import linen as nn
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.models.gan.spectral_norm import normalised
from diffjax.models.gan.strided import Halved
from diffjax.models.layers import start
from diffjax.typing import Images

__all__ = ["PatchDiscriminator"]

SLOPE = 0.2  # of the leaky ReLUs (Isola et al. 2017, sec. 6.1)
WIDEST = 8  # times the first layer's channels
Conv4x4 = partial(nn.Conv, kernel_size=(4, 4), padding=1, kernel_init=start)


class PatchDiscriminator(nn.Module):
    """Images to logits, the larger the more real the patch around the logit's place.

    `n_layers` convolutions halve height and width, and two more weigh what is left. All have 4x4
    pixels, so that a logit sees 16, 34 or 70 pixels across for 1, 2 or 3 layers. `channels` are
    those of the first layer; each further one has twice as many, up to eight times. The networks
    of Esser et al. 2021 have three layers and 64 channels.

    The papers normalise by batch. Then a logit depends on the other images of its device and
    microbatch, and the statistics are one more state. Group normalisation would let each logit
    depend on the whole image. Here nothing is normalised, and each logit depends on its own patch
    alone. `spectral_norm` or a penalty on slopes (R1) bounds the network instead.
    """

    n_layers: int = 3
    channels: int = 64
    spectral_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("n_layers", "channels"):
            if getattr(self, name) < 1:
                value = getattr(self, name)
                raise UserError(f"patch_discriminator({name}={value}): {name} must be above 0")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Images) -> Float[Array, "B h w"]:
        """Raises UserError for images that are too small to leave one logit."""
        _check(self.n_layers, *images.shape[1:3])
        halved, conv = (
            normalised(layer, self) if self.spectral_norm else layer for layer in (Halved, Conv4x4)
        )
        x = images
        for i in range(self.n_layers):
            x = nn.leaky_relu(halved(self._width(i), name=f"down_{i}")(x), SLOPE)
        x = nn.leaky_relu(conv(self._width(self.n_layers), name="conv")(x), SLOPE)
        return conv(1, name="logit")(x)[..., 0]

    def _width(self, layer: int) -> int:
        return self.channels * min(2**layer, WIDEST)


def _check(n_layers: int, height: int, width: int) -> None:
    if min(height, width) >> n_layers < 3:
        raise UserError(
            f"patch_discriminator(n_layers={n_layers}) needs images of {3 << n_layers} pixels or "
            f"more, and these have {height}x{width}: give fewer layers"
        )

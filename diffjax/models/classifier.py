"""A small convolutional classifier, the judge of what other networks draw."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from diffjax.errors import UserError
from diffjax.models.layers import Conv3x3, GroupNorm, Resized, largest_pixels
from diffjax.models.level_checks import check_widths
from diffjax.typing import Images

__all__ = ["Classifier"]

he = nn.initializers.he_normal()  # keeps the variance through ReLUs (He et al. 2015, eq. 10)


class Classifier(nn.Module):
    """Images to logits and the features before them: residual convolutions on halved images.

    A convolution of `stem` channels sees the images whole; each of `channels` is a level of half
    the size before. Odd sizes are padded. Features keep where things are, and are few, so that a
    thousand images settle their covariance.
    """

    num_classes: int = 10
    stem: int = 32
    channels: tuple[int, ...] = (48, 96)
    num_features: int = 64
    norm_num_groups: int = 8
    dropout: float | int = 0.0

    def __post_init__(self) -> None:
        _check(self)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: Images, *, train: bool = False
    ) -> tuple[Float[Array, "B K"], Float[Array, "B F"]]:
        """Logits of num_classes, and num_features features, at least 0; dropout only in training.

        The weights fit images of one size. The collection `intermediates` holds `layers`, the
        outputs of the stem and of each level, at least 0.
        """
        x = nn.relu(Conv3x3(self.stem, kernel_init=he)(images))
        layers = [x]
        for channels in self.channels:
            x = Conv3x3(channels, kernel_init=he)(_halved(x))
            x = x + Conv3x3(channels, kernel_init=he)(self._activated(x))
            x = self._activated(x)
            layers.append(x)
        self.sow("intermediates", "layers", layers)
        x = x.reshape(len(x), -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        features = nn.relu(nn.Dense(self.num_features, kernel_init=he)(x))
        return nn.Dense(self.num_classes)(features), features

    def _activated(self, x: Resized) -> Resized:
        return nn.relu(GroupNorm(self.norm_num_groups)(x))


def _halved(x: Float[Array, "B _ _ C"]) -> Float[Array, "B _ _ C"]:
    """The largest of each 2x2 block; an odd height or width gets one more pixel, its last again."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), mode="edge")
    return largest_pixels(x)


def _check(net: Classifier) -> None:
    """Refuses numbers out of range, and channels that the groups do not divide."""
    check_widths("classifier", net, ("num_classes", "stem", "num_features", "norm_num_groups"))
    if not 0 <= net.dropout < 1:
        raise UserError(f"classifier(dropout={net.dropout}): dropout must be from 0 to below 1")

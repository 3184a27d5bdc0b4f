"""The images themselves."""

import dataclasses

from diffjax.spaces.base import Autoencoder, Space
from diffjax.typing import Images, Keys

__all__ = ["Pixels"]


@dataclasses.dataclass(frozen=True)
class Pixels(Space):
    """x0 is the image, in [-1, 1]."""

    @property
    def limit(self) -> float:
        return 1.0

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return image_shape

    def encode(self, keys: Keys, images: Images, autoencoder: Autoencoder | None = None) -> Images:
        return images

    def centre(self, images: Images, autoencoder: Autoencoder | None = None) -> Images:
        return images

    def decode(self, x0: Images, autoencoder: Autoencoder | None = None) -> Images:
        return x0

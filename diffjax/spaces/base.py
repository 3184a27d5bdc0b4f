"""What a space is: the shape of x0, its bounds, and the ways from images and back."""

import abc
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

from diffjax.typing import Images, Keys

Latent = Float[Array, "B h w c"]


class Autoencoder(NamedTuple):
    """A first stage with its weights: both ways, in its own unscaled latents.

    encode: images in [-1, 1] to the mean and the log-variance of their latents.
    """

    encode: Callable[[Images], tuple[Latent, Latent]]
    decode: Callable[[Latent], Images]


class Space(abc.ABC):
    """The space of x0. `limit`: every x0 lies in [-limit, limit]; None without a bound."""

    @property
    @abc.abstractmethod
    def limit(self) -> float | None: ...

    @property
    def needs_autoencoder(self) -> bool:
        """Whether `encode` and `decode` are an autoencoder's."""
        return False

    @abc.abstractmethod
    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The shape of x0 for images of that shape. Raises UserError where there is none."""

    @abc.abstractmethod
    def encode(self, keys: Keys, images: Images, autoencoder: Autoencoder | None = None) -> Latent:
        """x0 of images in [-1, 1]; what is drawn is drawn by the sample's own key."""

    @abc.abstractmethod
    def centre(self, images: Images, autoencoder: Autoencoder | None = None) -> Latent:
        """x0 of images in [-1, 1] with nothing drawn: the mean of what `encode` draws."""

    @abc.abstractmethod
    def decode(self, x0: Latent, autoencoder: Autoencoder | None = None) -> Images:
        """Images, about in [-1, 1], of x0."""

"""An autoencoder's latents (Rombach et al. 2022)."""

import dataclasses

import jax.numpy as jnp

from diffjax.errors import UserError
from diffjax.randomness import fold_in, normal
from diffjax.spaces.base import Autoencoder, Latent, Space
from diffjax.typing import Images, Keys

__all__ = ["Latents"]

DRAW = 6  # folded into a sample's key: the draw of its latents


@dataclasses.dataclass(frozen=True)
class Latents(Space):
    """x0 = scale_factor (z - shift_factor), z drawn from the autoencoder's posterior.

    Images have `factor` times the latents' height and width. The scale gives x0 about unit variance
    (Rombach et al. 2022, appendix G). x0 has no bound. Raises UserError for numbers that are not
    above 0.
    """

    channels: int = 4
    factor: int = 8
    scale_factor: float = 1.0
    shift_factor: float = 0.0

    def __post_init__(self) -> None:
        for name in ("channels", "factor", "scale_factor"):
            if not getattr(self, name) > 0:
                raise UserError(f"latents({name}={getattr(self, name)}): {name} must be above 0")

    @property
    def limit(self) -> None:
        return None

    @property
    def needs_autoencoder(self) -> bool:
        return True

    def shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        height, width, _ = image_shape
        if height % self.factor or width % self.factor:
            raise UserError(
                f"images of {height}x{width} have no latents {self.factor} times smaller: "
                f"resize them to multiples of {self.factor}",
                option="image_size",
            )
        return height // self.factor, width // self.factor, self.channels

    def encode(self, keys: Keys, images: Images, autoencoder: Autoencoder | None = None) -> Latent:
        return self.drawn(keys, *_given(autoencoder).encode(images))

    def drawn(self, keys: Keys, mean: Latent, log_variance: Latent) -> Latent:
        """x0, drawn from the posterior with that mean and log-variance."""
        return self._scaled(posterior(keys, mean, log_variance))

    def centre(self, images: Images, autoencoder: Autoencoder | None = None) -> Latent:
        return self._scaled(_given(autoencoder).encode(images)[0])

    def _scaled(self, z: Latent) -> Latent:
        return (z - self.shift_factor) * self.scale_factor

    def decode(self, x0: Latent, autoencoder: Autoencoder | None = None) -> Images:
        return _given(autoencoder).decode(x0 / self.scale_factor + self.shift_factor)


def posterior(keys: Keys, mean: Latent, log_variance: Latent) -> Latent:
    """Unscaled latents drawn from the encoder's distribution, each by its sample's key."""
    return mean + jnp.exp(log_variance / 2) * normal(fold_in(keys, DRAW), mean.shape[1:])


def _given(autoencoder: Autoencoder | None) -> Autoencoder:
    if autoencoder is None:
        raise UserError("a space of latents needs an autoencoder: pass one")
    return autoencoder

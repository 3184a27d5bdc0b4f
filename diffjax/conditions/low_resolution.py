"""A smaller image, which the image to draw enlarges."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.conditions.base import Condition, in_turn
from diffjax.errors import UserError
from diffjax.randomness import fold_in, normal
from diffjax.typing import Images, Keys

__all__ = ["LowResolution"]

NOISED = 9  # folded into a sample's key: the draws that noise its smaller image


class Small(NamedTuple):
    """Images to enlarge, and the standard deviation of the noise that is added to each."""

    image: Images
    noise: Float[Array, "B"]


@dataclasses.dataclass(frozen=True)
class LowResolution(Condition):
    """An image `factor` times smaller: the means of squares of a batch's `image`.

    shape: of the smaller image. noise: training adds Gaussian noise to it, whose standard deviation
    is even from 0 to this, in units of images in [-1, 1], and tells the network how much. That is
    the conditioning augmentation of cascaded diffusion (Ho et al. 2021): the network learns to mend
    what a first model draws, not real images alone. The null condition is zeros.

    Raises UserError for a factor below 2, and for a noise below 0.
    """

    shape: tuple[int, int, int]
    factor: int = 4
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 2:
            raise UserError(f"factor={self.factor}: choose 2 or more", option="factor")
        if not self.noise >= 0:
            raise UserError(f"noise={self.noise}: choose 0 (none) or above", option="noise")

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return ("image",)

    def example(self, batch_size: int) -> Small:
        return Small(jnp.zeros((batch_size, *self.shape)), jnp.zeros(batch_size))

    def of_batch(self, batch: Mapping[str, Array]) -> Small:
        f, images = self.factor, batch["image"]
        small = einops.reduce(images, "b (h i) (w j) c -> b h w c", "mean", i=f, j=f)
        return Small(small, jnp.zeros(len(images)))

    def asked(self, values: Sequence[Any] | np.ndarray | None, num: int) -> Small:
        """`values` are images in [-1, 1] without noise, of `shape` or larger."""
        height, width, channels = self.shape
        if values is None:
            raise UserError("this run enlarges images: give the images to enlarge")
        images = in_turn(values, num)
        if images.ndim != 4 or images.shape[-1] != channels:
            given = "x".join(map(str, images.shape[1:]))
            raise UserError(
                f"images of {given}: this run enlarges images of {channels} channels, of "
                f"{height}x{width} pixels or more"
            )
        if images.shape[1] < height or images.shape[2] < width:
            raise UserError(
                f"images of {images.shape[1]}x{images.shape[2]} are smaller than what this run's "
                f"tile is drawn of: give {height}x{width} pixels or more"
            )
        return Small(jnp.asarray(images, jnp.float32), jnp.zeros(num))

    def null(self, cond: Small) -> Small:
        return jax.tree.map(jnp.zeros_like, cond)

    def hide(self, keys: Keys, cond: Small) -> Small:
        """The smaller images with noise, and some of them hidden."""
        if self.noise:
            draw = jax.vmap(lambda key: jax.random.uniform(key, maxval=self.noise))
            cond = noised(keys, cond._replace(noise=draw(fold_in(fold_in(keys, NOISED), 0))))
        return super().hide(keys, cond)


def noised(keys: Keys, cond: Small) -> Small:
    """The smaller images with as much noise as is told of them, drawn by their own keys."""
    noise = normal(fold_in(fold_in(keys, NOISED), 1), cond.image.shape[1:])
    return cond._replace(image=cond.image + cond.noise[:, None, None, None] * noise)

"""A generator that learns against a discriminator."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

import diffjax.models.gan
from diffjax.batches import in_batches
from diffjax.data.images import to_uint8
from diffjax.display.images import save_film, save_grid
from diffjax.editing.interpolation import slerp
from diffjax.generate import FILM_FRAMES, FILM_IMAGES
from diffjax.objectives.adversarial import GAMES, adversarial_loss
from diffjax.randomness import normal, sample_keys
from diffjax.tasks.base import Asked, Component, Preview, Samples, Task
from diffjax.training.run import RunFolder
from diffjax.training.step import Loss
from diffjax.typing import Images, Params

__all__ = ["GAN"]

Game = Literal["non_saturating", "hinge"]
GENERATOR, DISCRIMINATOR = "generator", "discriminator"
BATCH = 50  # latents at a time: more are no faster
Latents = Float[Array, "N L"]
Draw = Callable[[Params, Latents, int], Float[np.ndarray, "N H W C"]]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How many images a preview draws, and from which seed."""

    num: int = 100
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GAN(Task):
    """Two networks, each with a loss and a learning rate of its own.

    game: the losses, of objectives.adversarial. r1: the weight of the discriminator's gradient
    penalty at real images. discriminator_rate: its learning rate, where the run's is the
    generator's.
    """

    model: Any
    image_shape: tuple[int, int, int]
    game: Game = "non_saturating"
    r1: float = 1.0
    discriminator_rate: float = 4e-4

    specs: ClassVar[dict[str, Any]] = {"model": diffjax.models.gan}

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return ("image",)

    def networks(self) -> dict[str, nn.Module]:
        return {GENERATOR: self.model, DISCRIMINATOR: self.model}

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        return dict(self.model.init(key, jnp.zeros((1, self.model.latent)))["params"])

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        own = adversarial_loss(
            lambda params, z: self.model.apply({"params": params}, z, method="generate"),
            lambda params, x: self.model.apply({"params": params}, x, method="discriminate"),
            self.model.latent,
            game=GAMES[self.game],
            r1=self.r1,
        )
        return Loss(lambda params, frozen, keys, batch, gather: own(params, keys, batch))

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """Draws the same latents with the weights it is given; `shown` are Pictures.

        In the film each image of the grid turns into the next, along the great circle between
        their latents.
        """
        z = latents(self.model, jax.random.key(shown.seed), shown.num)
        walk = between(z[:FILM_IMAGES], FILM_FRAMES)
        draw = drawing(self.model)

        def picture(step: int, params: Params) -> None:
            save_grid(folder.picture(step), to_uint8(draw(params[GENERATOR], z, BATCH)))
            steps = walk.reshape(-1, self.model.latent)
            frames = to_uint8(draw(params[GENERATOR], steps, BATCH))
            save_film(folder.film, frames.reshape(*walk.shape[:2], *frames.shape[1:]))

        return picture

    def sample(
        self, components: Mapping[str, Component], key: Key[Array, ""], asked: Asked
    ) -> Samples:
        """Images in one step, and no trajectory. Raises UserError for any option but a number."""
        asked.check_plain("a GAN")
        z = latents(self.model, key, asked.count)
        batch_size = min(asked.batch_size, len(z))
        images = jnp.asarray(drawing(self.model)(components[GENERATOR].params, z, batch_size))
        return Samples(images, images[None])


def latents(model: Any, key: Key[Array, ""], num: int) -> Latents:
    """Unit normal latents, each of a key of its own: the first are the same whatever `num` is."""
    return normal(sample_keys(key, 0, num), (model.latent,))


@functools.lru_cache(maxsize=8)
def drawing(model: Any) -> Draw:
    """A compiled (the generator's params, latents, batch_size) -> images."""

    @jax.jit
    def generate(params: Params, z: Latents) -> Images:
        return model.apply({"params": {GENERATOR: params}}, z, method="generate")

    def draw(params: Params, z: Latents, batch_size: int) -> Float[np.ndarray, "N H W C"]:
        return in_batches(lambda rows: generate(params, rows), np.asarray(z), batch_size)

    return draw


def between(z: Latents, frames: int) -> Float[Array, "F N L"]:
    """From each latent to the next one, and from the last to the first."""
    a, b = (rows[:, None, None] for rows in (z, jnp.roll(z, -1, axis=0)))
    walk = jax.vmap(lambda share: slerp(a, b, jnp.full(len(z), share)))(jnp.linspace(0, 1, frames))
    return walk[:, :, 0, 0]

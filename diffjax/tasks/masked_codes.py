"""A network that draws an autoencoder's codes, by masking them in training."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

import diffjax.conditions
import diffjax.models
from diffjax.absorbing import Path, absorbing_loss, unmask
from diffjax.batches import padded
from diffjax.conditions.base import Condition, rows_of
from diffjax.conditions.none import Unconditional
from diffjax.data.images import to_uint8
from diffjax.data.latents import MOMENTS
from diffjax.display.images import save_film, save_grid
from diffjax.errors import UserError
from diffjax.generate import FILM_IMAGES
from diffjax.models.backbone import Backbone
from diffjax.randomness import sample_keys
from diffjax.tasks.base import Asked, Component, Preview, Samples, Source, Task
from diffjax.tasks.denoisers import AUTOENCODER, DENOISER
from diffjax.training.run import RunFolder
from diffjax.training.step import Loss
from diffjax.typing import Cond, Images, Params

__all__ = ["MaskedCodes"]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How a preview is drawn."""

    steps: int = 25
    num: int = 64
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedCodes(Task):
    """Codes from masks: `model` takes num_codes + 1 channels and returns num_codes logits.

    code_shape: rows and columns of codes. Raises UserError for a network of other channels.
    """

    model: Any  # a Backbone, which is checked
    image_shape: tuple[int, int, int]
    autoencoder: Source
    num_codes: int
    code_shape: tuple[int, int]
    condition: Condition = Unconditional()  # noqa: RUF009 frozen

    specs: ClassVar[dict[str, Any]] = {"model": diffjax.models, "condition": diffjax.conditions}

    def __post_init__(self) -> None:
        if not isinstance(self.model, Backbone):
            raise UserError("what tells codes apart is a backbone: choose one", option="model")
        if self.model.told_spans:
            raise UserError("codes have no spans: leave the network's out", option="model")
        channels = tuple(
            getattr(self.model, name, None) for name in ("in_channels", "out_channels")
        )
        wanted = self.num_codes + 1, self.num_codes
        if channels != wanted:
            raise UserError(
                f"a network of {self.num_codes} codes has in_channels={wanted[0]} and "
                f"out_channels={wanted[1]}, not {channels[0]} and {channels[1]}: leave them out",
                option="model",
            )

    @property
    def batch_keys(self) -> tuple[str, ...]:
        return (MOMENTS, *self.condition.batch_keys)

    def networks(self) -> dict[str, nn.Module]:
        return {DENOISER: self.model}

    def init(self, key: Key[Array, ""], frozen: Mapping[str, Params]) -> dict[str, Params]:
        cond = self.condition.example(1)
        x = jnp.zeros((1, *self.code_shape, self.num_codes + 1))
        given = () if cond is None else (cond,)
        return {DENOISER: self.model.init(key, x, jnp.zeros((1,)), *given)["params"]}

    def loss(self, frozen: Mapping[str, Component]) -> Loss:
        own = absorbing_loss(self.model.apply, self.num_codes, self.condition)
        stage = frozen[AUTOENCODER].model

        def function(params: Any, given: Any, keys: Any, batch: Any, gather: Any) -> Any:
            z = jnp.split(batch[MOMENTS], 2, axis=-1)[0]
            found: Any = stage.apply({"params": given[AUTOENCODER]}, z, method="quantise")
            return own(params[DENOISER], keys, {**batch, "codes": found.indices})

        return Loss(function)

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """Draws the same masks' codes with the weights it is given; `shown` are Pictures."""
        cond = self.condition.asked(None, shown.num)

        def picture(step: int, params: Params) -> None:
            components = {**frozen, DENOISER: Component(self.model, params[DENOISER])}
            key = jax.random.key(shown.seed)
            drawn = self._drawn(components, key, shown.num, shown.num, shown.steps, cond)
            save_grid(folder.picture(step), to_uint8(np.asarray(drawn.images)))
            save_film(folder.film, to_uint8(np.asarray(drawn.film)))

        return picture

    def sample(
        self, components: Mapping[str, Component], key: Key[Array, ""], asked: Asked
    ) -> Samples:
        """Images of drawn codes. Raises UserError for a sampler, spacing or guidance."""
        for option in ("sampler", "spacing", "guidance", "negative"):
            if not np.array_equal(getattr(asked, option), getattr(Asked(), option)):
                raise UserError(f"codes are drawn in one way, without {option}: leave it out")
        cond = self.condition.asked(asked.labels, asked.count)
        return self._drawn(components, key, asked.count, asked.batch_size, asked.steps, cond)

    def _drawn(
        self, components: Mapping[str, Component], key: Key[Array, ""], num: int, batch_size: int,
        steps: int, cond: Cond,
    ) -> Samples:  # fmt: skip
        draw = drawing(self.model, self.code_shape, self.num_codes, steps)
        stage, size = components[AUTOENCODER], min(batch_size, num)
        decode = decoding(stage.model)
        made, films = [], []
        for first, rows in padded(num, size):
            keys = sample_keys(key, first, size)
            path = draw(components[DENOISER].params, keys, rows_of(cond, rows))
            made.append(jax.device_get(decode(stage.params, path.codes)))
            films.append(path.film)
        film = covered(jnp.asarray(made[0]), films[0] == self.num_codes)
        return Samples(jnp.asarray(np.concatenate(made)[:num]), film[:, :num])


def covered(images: Images, masked: Bool[Array, "T N h w"]) -> Float[Array, "T N H W C"]:
    """The first images after each step: grey where codes are masked, since no code changes."""
    for axis in (1, 2):
        masked = jnp.repeat(masked, images.shape[axis] // masked.shape[axis + 1], axis + 1)
    return jnp.where(masked[..., None], 0.0, images[: masked.shape[1]])


@functools.lru_cache(maxsize=8)
def drawing(
    model: nn.Module, shape: tuple[int, int], num_codes: int, steps: int
) -> Callable[..., Path]:
    """A compiled (params, keys, cond) -> codes; a second call compiles nothing."""

    def draw(params: Params, keys: Array, cond: Cond) -> Path:
        watched = min(len(keys), FILM_IMAGES)
        return unmask(model.apply, params, keys, cond, shape, num_codes, steps, watched)

    return jax.jit(draw)


@functools.lru_cache(maxsize=8)
def decoding(model: Any) -> Callable[[Params, Array], Images]:
    """A compiled (the autoencoder's params, codes' indices) -> images in [-1, 1]."""

    def decode(params: Params, indices: Array) -> Images:
        variables = {"params": params}
        z = model.apply(variables, indices, method="look_up")
        return jnp.clip(model.apply(variables, z, method="decode"), -1, 1)

    return jax.jit(decode)

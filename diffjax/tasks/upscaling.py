"""Images made larger by a diffusion model, in overlapping tiles that are drawn together."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Key

from diffjax.conditions.low_resolution import LowResolution, Small, noised
from diffjax.data import Records
from diffjax.data.images import to_uint8
from diffjax.data.skipping import read_all
from diffjax.display.images import grid, save_picture
from diffjax.errors import UserError
from diffjax.generate import Draw, shared_out, times_of
from diffjax.guidance.plan import Guidance
from diffjax.guidance.thresholds import clip_x0
from diffjax.guidance.tiles import covering, tiled, windows
from diffjax.metrics.psnr import psnr
from diffjax.models.upscaler import enlarged
from diffjax.randomness import fold_in
from diffjax.samplers.base import Sampler, from_noise
from diffjax.spaces.pixels import Pixels
from diffjax.tasks.base import Component, Preview
from diffjax.tasks.denoisers import DENOISER, Pictures
from diffjax.tasks.diffusion import Diffusion
from diffjax.training.journal import HELD_OUT, add_line
from diffjax.training.run import RunFolder
from diffjax.typing import Images, Keys, Params, Prediction, Times

__all__ = ["Upscaling"]

CROP = 8  # folded into a sample's key: where its tile lies


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown(Pictures):
    """Held-out images, `num` of whose middles a preview draws anew, and what takes its figures."""

    records: Records
    say: Callable[[str], object] = print


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upscaling(Diffusion):
    """Tiles of images, drawn of what is `factor` times smaller (Saharia et al. 2021, SR3).

    image_shape: of a tile, which is square. Training crops one of each image at random. Larger
    images are drawn in overlapping tiles (`make_canvas_draw`). Raises UserError for parts that do
    not go together.
    """

    condition: Any  # a LowResolution, which is checked

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.condition, LowResolution) or not isinstance(self.space, Pixels):
            raise UserError("upscaling is of pixels, by a network that is told a smaller image")
        if self.condition.drop:
            raise UserError("an upscaler is not guided: choose cond_drop=0", option="cond_drop")
        side, factor = self.image_shape[0], self.condition.factor
        if self.image_shape[:2] != (side, side) or self.condition.shape[0] * factor != side:
            raise UserError(
                f"tiles of {self.image_shape} are no squares {factor} times as large as "
                f"{self.condition.shape}"
            )

    def encoded(
        self, components: Mapping[str, Component], params: Mapping[str, Params], keys: Keys,
        batch: Mapping[str, Array],
    ) -> Mapping[str, Array]:  # fmt: skip
        """The batch with a tile of each image."""
        return {**batch, "image": cropped(fold_in(keys, CROP), batch["image"], self.image_shape)}

    def draw_with(self, sampler: Sampler, batch_size: int) -> Draw:
        return canvas_drawing(self, sampler, batch_size)

    def preview(self, folder: RunFolder, frozen: Mapping[str, Component], shown: Any) -> Preview:
        """Measures and draws tiles in the middle of held-out images; `shown` is Shown.

        Of each the picture has the smaller image, its bicubic enlargement, what is drawn, and the
        tile itself, a row each.
        """
        tiles = middles(shown.records, shown.num, self.image_shape)
        num, factor = len(tiles), self.condition.factor
        cond = self.condition.of_batch({"image": jnp.asarray(tiles)})
        plain = np.asarray(jnp.clip(enlarged(cond.image, factor), -1, 1))
        small = np.asarray(cond.image).repeat(factor, axis=1).repeat(factor, axis=2)
        draw = self.draw_with(shown.sampler, num)

        def show(step: int, params: Params) -> None:
            own = params[DENOISER]
            spacing = shown.spacing or shown.sampler.spacing
            times = times_of(self.process, own, spacing, shown.steps)
            components = {**frozen, DENOISER: Component(self.model, own)}
            key = jax.random.key(shown.seed)
            made = np.asarray(self.drawn(draw, components, key, num, num, times, cond).images)
            found = {"psnr": psnr(made, tiles), "psnr_bicubic": psnr(plain, tiles)}
            add_line(folder.path / HELD_OUT, step, found)
            sheet = grid(to_uint8(np.concatenate([small, plain, made, tiles])), num)
            save_picture(folder.picture(step), sheet, drawn="part")
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            shown.say(f"step {step}: {numbers}, of tiles of {num} held-out images")

        return show


def make_canvas_draw(task: Upscaling, sampler: Sampler, batch_size: int) -> Draw:
    """As `generate.make_draw`, of images `factor` times as large as those of the condition.

    Every step's prediction is the mean of those of overlapping tiles, half a tile apart, of which
    `batch_size` are computed at a time (`guidance.tiles`). There is no film: it would be larger
    than the images. Another size of images compiles anew. Raises UserError for guidance.
    """
    process, factor, tile = task.process, task.condition.factor, task.image_shape[0]
    sampler.check(process)

    def walk(
        params: Params, keys: Keys, cond: Small, times: Float[Array, "T"], guidance: Guidance
    ) -> tuple[Images, Float[Array, "..."]]:
        check_unguided(guidance)
        bound, small = process.bind(params), noised(keys, cond)

        def denoise(x: Images, t: Times, corners: Int[Array, "n 2"]) -> Prediction:
            images = windows(small.image, corners // factor, tile // factor)
            told = Small(images, jnp.tile(small.noise, len(corners)))
            return bound.denoiser(task.model.apply, params, told)(x, t)

        batch, rows, columns, channels = cond.image.shape
        shape = factor * rows, factor * columns, channels
        corners = covering(*shape[:2], tile, factor * max(1, tile // factor // 2))
        whole = tiled(denoise, corners, tile, max(1, batch_size // batch))
        return from_noise(
            sampler, bound.schedule, clip_x0(whole, bound.schedule), keys, shape, times
        )

    return shared_out(walk)


# A second call compiles nothing.
canvas_drawing: Callable[..., Draw] = functools.lru_cache(maxsize=16)(make_canvas_draw)


def check_unguided(guidance: Guidance) -> None:
    """Raises UserError for guidance."""
    if any(part is not None for part in guidance):
        raise UserError("an upscaler is not guided: leave guidance out")


def cropped(keys: Keys, images: Images, form: tuple[int, int, int]) -> Float[Array, "B h w C"]:
    """A part of each image, of that shape, where its own key says."""
    room = jnp.asarray(images.shape[1:3]) - jnp.asarray(form[:2])

    def crop(key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        corner = jax.random.randint(key, (2,), 0, room + 1)
        return lax.dynamic_slice(image, (*corner, 0), form)

    return jax.vmap(crop)(keys, images)


def middles(records: Records, num: int, form: tuple[int, int, int]) -> Float[np.ndarray, "N h w C"]:
    """The middles, of that shape, of `num` records spread over the set, or of all."""
    count = min(num, len(records))
    found = read_all(records, [i * len(records) // count for i in range(count)])
    (height, width, _), (own_height, own_width, _) = form, records.image_shape
    top, left = (own_height - height) // 2, (own_width - width) // 2
    return np.stack([one["image"][top : top + height, left : left + width] for one in found])

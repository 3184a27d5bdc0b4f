"""Images that a pipeline is given to change, and what it starts from."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32

from diffjax.editing.base import Edit
from diffjax.editing.inpainting import Blended
from diffjax.editing.interpolation import FromNoise
from diffjax.editing.pictures import kept_whole
from diffjax.errors import UserError
from diffjax.interop.schedulers import Scheduler
from diffjax.pipelines.painting import SHOWN
from diffjax.pipelines.stage import FirstStage
from diffjax.typing import Images, Times

Given = Float[np.ndarray, "M H W P"] | Float[Array, "M H W P"]
Kept = Bool[np.ndarray, "_H _W 1"] | Bool[Array, "_H _W 1"]  # checked against the images


class Originals(NamedTuple):
    """One image per prompt, and either a strength or a mask."""

    images: Float32[np.ndarray, "N H W c"]
    strength: float | None
    keep: Bool[np.ndarray, "H W 1"] | None

    def sized(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Their height and width. Raises UserError where others are asked for."""
        own = self.images.shape[1:3]
        if (height or own[0], width or own[1]) != own:
            raise UserError(
                f"images are {own[0]}x{own[1]}, not height={height} and width={width}: resize them"
            )
        return own


def originals(
    images: Given | None, strength: float | None, keep: Kept | None, count: int, channels: int
) -> Originals | None:
    """The images of `count` prompts, one repeated; None where there are none.

    Raises UserError for images without either of the two or with both, either without images, and
    for what is out of range or of another shape.
    """
    if (images is None) != (strength is None and keep is None):
        raise UserError(
            "images go with strength, to draw them anew, or with keep, to paint a part: give "
            "images and one of the two, or neither"
        )
    if images is None:
        return None
    if strength is not None and keep is not None:
        raise UserError("strength and keep both say what is done to images: leave one out")
    if strength is not None and not 0 < strength <= 1:
        raise UserError(
            f"strength={strength}: choose above 0 (the image itself) up to 1 (a new one)",
            "strength",
        )
    found = _checked(np.asarray(images, np.float32), count, channels)
    return Originals(found, strength, None if keep is None else _mask(keep, found.shape))


def _checked(images: np.ndarray, count: int, channels: int) -> Float32[np.ndarray, "N H W c"]:
    if images.ndim != 4 or len(images) not in (1, count) or images.shape[-1] != channels:
        raise UserError(
            f"images have shape {images.shape}: give (1 or {count}, height, width, {channels})"
        )
    if not np.abs(images).max() <= 1:
        raise UserError("images hold numbers beyond [-1, 1], or that are none: scale them")
    return np.broadcast_to(images, (count, *images.shape[1:]))


def _mask(keep: Any, shape: tuple[int, ...]) -> Bool[np.ndarray, "H W 1"]:
    mask = np.asarray(keep)
    if mask.dtype != bool or mask.shape != (*shape[1:3], 1):
        raise UserError(
            f"keep holds {mask.dtype} of shape {mask.shape}: give booleans of shape "
            f"{(*shape[1:3], 1)}, True where the images stay"
        )
    return mask


def start(
    plan: Scheduler,
    stage: FirstStage,
    given: Originals | None,
    noise: Images,
    t: Times,
    *,
    paints: bool,
) -> tuple[Edit, dict[str, Array]]:
    """What is walked from time t on, and what a U-Net that paints is shown."""
    if given is None:
        return _from_noise(plan, noise, t), {}
    if given.keep is None:
        return FromNoise(plan.sampler, plan.process.q_sample(stage.x0(given.images), noise, t)), {}
    if paints:
        return _from_noise(plan, noise, t), {SHOWN: _shown(stage, given.images, given.keep)}
    whole = kept_whole(given.keep, noise.shape[1:3])
    keep = jnp.broadcast_to(whole, (*noise.shape[:3], 1))
    known, first = stage.x0(given.images), plan.noise_scale(t) * noise
    return Blended(plan.sampler, known, keep, noise, first), {}


def _from_noise(plan: Scheduler, noise: Images, t: Times) -> Edit:
    return FromNoise(plan.sampler, plan.noise_scale(t) * noise)


def _shown(
    stage: FirstStage, images: Float32[np.ndarray, "N H W c"], keep: Bool[np.ndarray, "H W 1"]
) -> Float[Array, "N h w D"]:
    """1 where is painted, of each latent's first pixel, and the latents of what is kept."""
    factor = stage.model.factor
    painted = jnp.asarray(~keep[::factor, ::factor], jnp.float32)
    kept = stage.x0(images * keep)
    return jnp.concatenate([jnp.broadcast_to(painted, (*kept.shape[:3], 1)), kept], axis=-1)

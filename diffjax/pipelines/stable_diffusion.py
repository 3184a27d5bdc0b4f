"""Stable Diffusion: prompts to images, in one compiled loop."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key

import diffjax.samplers
from diffjax import spec
from diffjax.editing.draw import make_edit_walk
from diffjax.editing.inpainting import Blended
from diffjax.errors import UserError
from diffjax.generate import Draw, cut_among, generate, shared_out, times_of
from diffjax.guidance.base import are_scales
from diffjax.guidance.plan import Away, Guidance
from diffjax.interop.schedulers import Scheduler
from diffjax.models.unet_condition import ConditionalUNet
from diffjax.pipelines.originals import Given, Kept, Originals, originals, start
from diffjax.pipelines.painting import Painting
from diffjax.pipelines.prompts import Prompts, checked, condition
from diffjax.pipelines.stage import FirstStage
from diffjax.process import Process
from diffjax.randomness import fold_in, normal, sample_keys
from diffjax.samplers.base import Sampler
from diffjax.spaces.base import Latent
from diffjax.spacings.base import Spacing
from diffjax.typing import Images, Keys, Params

STEPS = 100  # one compilation serves up to so many, another one up to twice as many


@dataclasses.dataclass(frozen=True)
class StableDiffusion:
    """Stable Diffusion 1, 2 or XL: its networks, their weights, and its scheduler.

    `load_pipeline` makes it. dataclasses.replace(pipe, scheduler=...) has another scheduler. cut:
    the U-Net's parameters are cut among the devices.
    """

    unet: ConditionalUNet
    unet_params: Params
    stage: FirstStage
    prompts: Prompts
    scheduler: Scheduler
    cut: bool = False

    def sample(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str] | None = None,
        guidance: float | Sequence[float] = 7.5,
        steps: int = 30,
        sampler: str | Sampler | None = None,
        key: Key[Array, ""] | None = None,
        latents: Latent | None = None,
        *,
        spacing: Spacing | None = None,
        rescale: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        images: Given | None = None,
        strength: float | None = None,
        keep: Kept | None = None,
        batch_size: int = 8,
    ) -> Images:
        """One float32 image in [-1, 1] per prompt, NHWC.

        negative_prompts: what to go away from, one for all or one per prompt. guidance: its scale,
        one for all or one per prompt; 1 is off. rescale: the share, 0 to 1, of the spread of x0
        that guidance gives back. sampler: a spec or an object, by default the scheduler's. spacing:
        the times, by default the scheduler's, or those that another sampler does best on.

        key: of all randomness, by default jax.random.key(0). latents: unit noise (N, h, w, C), in
        place of what the key draws. height, width: by default those of the images given, or the
        U-Net's.

        images: in [-1, 1], one for all or one per prompt. With strength, above 0 up to 1, they are
        noised, and the last of the steps are walked, by that share (SDEdit, Meng et al. 2022). With
        keep, booleans (H, W, 1), they stay where it is True, and the rest is painted: a U-Net of
        nine channels is shown what is kept, and for others it is put back at each step, under the
        noise that the walk began with (Avrahami et al. 2023).

        batch_size: images at a time; it changes memory and speed alone. Raises UserError for what
        is out of range or does not go together.
        """
        texts = checked(prompts, "prompts")
        count, negatives = len(texts), None
        if negative_prompts is not None:
            negatives = checked(negative_prompts, "negative_prompts", count)
        scale = _scales(guidance, count, negatives)
        given = originals(images, strength, keep, count, self.stage.model.in_channels)
        self._check_use(given, batch_size)
        size = self.size(*((height, width) if given is None else given.sized(height, width)))
        plan = self._plan(sampler, spacing)
        times = _times(plan, steps, strength)
        key = jax.random.key(0) if key is None else key
        shape = self.stage.space.shape((*size, self.stage.model.in_channels))
        noise = _noise(latents, sample_keys(key, 0, count), shape)

        edit, shown = start(plan, self.stage, given, noise, times[0], paints=self.paints)
        sizes = size if self.unet.addition_embed_type else None
        wanted, unwanted = (
            {**condition(told, sizes), **shown} for told in self.prompts(texts, negatives)
        )
        x0, _ = generate(
            _walk(self._network, plan.process, plan.limit, self.cut), self._params, key, count,
            batch_size, times, (edit, wanted), Guidance(Away(scale, unwanted, rescale=rescale)),
        )  # fmt: skip
        if isinstance(edit, Blended):  # which the last step may leave a little noise on
            x0 = np.where(edit.keep, edit.known, x0)
        return self.stage.images(x0)

    @property
    def paints(self) -> bool:
        """Whether the U-Net was trained to paint, and is shown what is kept."""
        return self.unet.in_channels != self.unet.out_channels

    @property
    def _network(self) -> nn.Module:
        return Painting(self.unet) if self.paints else self.unet

    @property
    def _params(self) -> Params:
        return {"unet": self.unet_params} if self.paints else self.unet_params

    def _check_use(self, given: Originals | None, batch_size: int) -> None:
        """Raises UserError for what this pipeline has no use for."""
        if self.paints and (given is None or given.keep is None):
            raise UserError("this U-Net was trained to paint parts of images: give images and keep")
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: choose 1 or more", "batch_size")

    def size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Height and width of images; by default those that the U-Net was trained for.

        Raises UserError for a side that is no multiple of the first stage's factor.
        """
        own, factor = self.unet.sample_size, self.stage.model.factor
        sides = own if isinstance(own, tuple) else (own, own)
        found = []
        for name, side, latents in (("height", height, sides[0]), ("width", width, sides[1])):
            if side is None and latents is None:
                raise UserError(f"this U-Net has no sample_size: give {name}", name)
            if side is not None and (side < 1 or side % factor):
                raise UserError(f"{name}={side}: give a multiple of {factor}", name)
            found.append(side or factor * (latents or 0))
        return found[0], found[1]

    def _plan(self, sampler: str | Sampler | None, spacing: Spacing | None) -> Scheduler:
        """The scheduler, or another sampler in its place. Raises UserError as `spec.build` does."""
        plan = self.scheduler
        if sampler is not None:
            chosen = spec.build(sampler, diffjax.samplers) if isinstance(sampler, str) else sampler
            chosen.check(plan.process)
            plan = dataclasses.replace(
                plan, sampler=chosen, spacing=chosen.spacing, unit_noise=False
            )
        return plan if spacing is None else dataclasses.replace(plan, spacing=spacing)


@functools.lru_cache(maxsize=16)
def _walk(model: nn.Module, process: Process, limit: float | None, cut: bool) -> Draw:
    """The compiled loop; a second call compiles nothing."""
    compiled = cut_among if cut else functools.partial(shared_out, frugal=True)
    return make_edit_walk(model, process, limit=limit, compiled=compiled)


def _times(plan: Scheduler, steps: int, strength: float | None) -> Float[Array, "T"]:
    """The times of all steps, or of the share of them that is walked last, filled up.

    Raises UserError where that is no step.
    """
    most = STEPS * max(1, math.ceil(steps / STEPS))
    times = times_of(plan.process, {}, plan.spacing, steps, most)
    walked = steps if strength is None else int(steps * strength)
    if walked < 1:
        raise UserError(f"strength={strength} of {steps} steps is less than one: take more steps")
    return jnp.pad(times[steps - walked :], (0, steps - walked), mode="edge")


def _scales(
    guidance: float | Sequence[float], count: int, negatives: Sequence[str] | None
) -> Float[Array, "N"]:
    """One scale per image. Raises UserError for others, and where nothing uses `negatives`."""
    if np.shape(guidance) not in ((), (count,)) or not are_scales(guidance):
        raise UserError(f"guidance={guidance}: give one finite scale, or {count} of them")
    scale = np.broadcast_to(np.asarray(guidance, np.float32), (count,))
    if negatives is not None and (scale == 1).all():
        raise UserError("negative_prompts do nothing at guidance 1: choose a scale", "guidance")
    return jnp.asarray(scale)


def _noise(latents: Latent | None, keys: Keys, shape: tuple[int, int, int]) -> Images:
    """Unit noise, as given or as the keys draw it. Raises UserError for that of another shape."""
    if latents is None:
        return normal(fold_in(keys, 0), shape)
    if latents.shape != (len(keys), *shape):
        raise UserError(f"latents have shape {latents.shape}: give {(len(keys), *shape)}")
    return jnp.asarray(latents, jnp.float32)

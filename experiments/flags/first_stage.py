"""The flags of a first stage, and the way from images to latents that are learnt."""

from typing import Any, NamedTuple

from absl import flags

from diffjax import runs
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.spaces.latents import Latents
from diffjax.tasks.base import Source
from diffjax.tasks.denoisers import AUTOENCODER
from diffjax.tasks.latent_cache import Scale, measured, space_of
from experiments.flags import caching, kinds, learning

flags.adopt_module_key_flags(caching)
FIRST_STAGE = kinds.define_path(
    "first_stage", None,
    "an autoencoder in whose latents diffusion happens: a run of experiments.vae, or a folder of "
    "diffusers' AutoencoderKL or VQModel",
)  # fmt: skip
OWN = (FIRST_STAGE,)


class Learnt(NamedTuple):
    """What is learnt: records, the shape of x0, and the task's options of its space."""

    records: Records
    shape: tuple[int, int, int]
    options: dict[str, Any]


def in_space(records: Records) -> Learnt:
    """The records in --first_stage's latents, or as they are without one.

    Latents are scaled as the run has it where it has begun, and else as they are measured.
    """
    if FIRST_STAGE.value is None:
        return Learnt(records, records.image_shape, {})
    source = runs.source_of(FIRST_STAGE.value, AUTOENCODER)
    check_begun(source)
    cache = caching.latents_of(records, source)
    latents = cache.load()
    space = space_of(latents, begun_scale() or measured(latents), cache.shape)
    learning.say(
        f"latents of {'x'.join(map(str, cache.shape))}, scale {space.scale_factor}, shift "
        f"{space.shift_factor}"
    )
    return Learnt(latents, cache.shape, {"space": space, "autoencoder": source})


def check_begun(source: Source) -> None:
    """Raises UserError for another first stage than the run in --workdir was begun with."""
    begun = getattr(learning.begun_task(), "autoencoder", None)
    if begun is not None and begun.digest != source.digest:
        raise UserError(
            f"--first_stage={source.path} has other weights than the first stage of the run in "
            f"--workdir, which lay in {begun.path}: give that one, or another --workdir"
        )


def begun_scale() -> Scale | None:
    """The scale of the run in --workdir, where it has begun."""
    space = getattr(learning.begun_task(), "space", None)
    if not isinstance(space, Latents):
        return None
    return Scale(space.scale_factor, space.shift_factor)


def check_given() -> None:
    """Raises UserError without --first_stage."""
    if FIRST_STAGE.value is None:
        raise UserError(
            "--first_stage is missing: give a run of experiments.vae, or a folder of diffusers' "
            "AutoencoderKL or VQModel"
        )

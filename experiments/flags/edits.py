"""The flags of editing, for experiments.sample: what is made of given images with no training."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Bool, Float, Float32, Int
from PIL import Image

from diffjax import runs
from diffjax.conditions.classes import Classes
from diffjax.data.images import to_uint8
from diffjax.editing.base import Edit
from diffjax.editing.image_to_image import SDEdit
from diffjax.editing.inpainting import Repaint
from diffjax.editing.pictures import PARTS, kept_whole, read_mask, read_pictures, read_whole
from diffjax.editing.posterior import DPS, Coarse, Grey, Measurement
from diffjax.errors import UserError
from diffjax.generate import Draw
from diffjax.runs import Run
from diffjax.samplers.base import Sampler
from diffjax.samplers.ddim import DDIM
from diffjax.tasks.denoisers import DenoiserTask
from diffjax.tasks.tracing import classes_of
from diffjax.tasks.upscaling import Upscaling
from experiments.flags import guiding, kinds
from experiments.flags.enlarging import Enlarging
from experiments.flags.making import Making, Pixels, Wanted, edit_draw, rows_sheet
from experiments.flags.walks import STRENGTHS, Direction, Walk

RESULTS = 4  # of each image, by default
TASKS = (
    "inpaint",
    "img2img",
    "interpolate",
    "direction",
    "colourise",
    "super_resolution",
    "upscale",
)
TASK = flags.DEFINE_enum(
    "task", None, TASKS,
    "edit the images of --init, with no training; direction: from the class or text of --negative "
    "to that of --labels or --prompts, at the strengths of --guidance, by default 0,0.5,1,1.5,2",
)  # fmt: skip
INIT = kinds.define_path(
    "init", None, "the images to edit: a picture, a .npy or .npz file, or a folder of these; "
    "direction draws noise without it",
)  # fmt: skip
MASK = flags.DEFINE_string(
    "mask", None,
    f"inpaint: the part to paint ({', '.join(PARTS)}), or a file of the run's height and width, "
    "white where the image is kept, or transparent where it is painted; by default centre",
)  # fmt: skip
JUMP = kinds.define_integer(
    "jump", None, "inpaint: steps that are taken back at once, by default 10"
)
RESAMPLE = kinds.define_integer(
    "resample", None, "inpaint: how often they are taken, by default 4; 1 takes none back"
)
STRENGTH = kinds.define_number(
    "strength", None, "img2img: the time, above 0 and up to 1, that the image is noised to, or of "
    "a pipeline the share of the steps, by default 0.6; 1 keeps next to nothing of it",
)  # fmt: skip
FACTOR = kinds.define_integer(
    "factor", None, "super_resolution: pixels of the image to one of the coarse, by default 4"
)
ZETA = kinds.define_number(
    "zeta", None, "colourise, super_resolution: how far each step goes to what was measured, by "
    "default 1",
)  # fmt: skip
NOISE = kinds.define_number(
    "noise", None, "upscale: the standard deviation of noise that is added to the images and told "
    "to the network, up to that of its training; by default 0. More of it leaves more to draw",
    lower_bound=0,
)  # fmt: skip
MEASURED = ("colourise", "super_resolution")
NOISY = ("inpaint", "colourise", "super_resolution")  # whose papers draw with DDPM's steps
OWN = (
    (MASK, ("inpaint",)),
    (JUMP, ("inpaint",)),
    (RESAMPLE, ("inpaint",)),
    (STRENGTH, ("img2img",)),
    (FACTOR, ("super_resolution",)),
    (ZETA, ("colourise", "super_resolution")),
    (NOISE, ("upscale",)),
    (INIT, TASKS),
)


@dataclasses.dataclass(frozen=True)
class Editing(Making):
    """Images to edit, in [-1, 1], each in turn.

    classes: those that they are of; None where the run knows none. edit: what is done to the images
    of the given numbers. degraded: what it is told of them, as images, where that is not all. keep:
    which pixels stay as they are.
    """

    pictures: Float32[np.ndarray, "P H W C"]
    classes: Int[np.ndarray, "P"] | None
    edit: Callable[[Sampler, Int[np.ndarray, "N"]], Edit]
    degraded: Float32[np.ndarray, "P H W C"] | None = None
    keep: Bool[np.ndarray, "H W 1"] | None = None

    @property
    def num(self) -> int:
        return RESULTS * len(self.pictures)

    def labels(self, num: int) -> Sequence[Any] | None:
        if self.classes is None or guiding.LABELS.present:
            return None
        return self.classes[np.arange(num) % len(self.pictures)].tolist()

    def draw(self, wanted: Wanted) -> tuple[Draw, Float[Array, "S"]]:
        edit = self.edit(wanted.sampler, np.arange(wanted.num) % len(self.pictures))
        return edit_draw(wanted, edit), jnp.asarray(edit.times(np.asarray(wanted.times)))

    def sheet(self, made: Pixels) -> Image.Image:
        """A row for each picture: it, what was told of it, and what was made of that."""
        given = [self.pictures] if self.degraded is None else [self.pictures, self.degraded]
        return rows_sheet([*map(to_uint8, given)], made)

    def finished(self, made: Pixels) -> Pixels:
        """What was made, with the pixels that are kept as they were: latents keep them roughly."""
        if self.keep is None:
            return made
        of = np.arange(len(made)) % len(self.pictures)
        return np.where(self.keep, to_uint8(self.pictures)[of], made)

    def told(self, names: Sequence[str]) -> str:
        return guiding.taken_for(self.classes, names)


def sampler_spec(flag: flags.FlagHolder[str]) -> str:
    """The sampler of the flag; of a task that does better with noise, by default ddpm."""
    return "ddpm" if TASK.value in NOISY and not flag.present else flag.value


def read(run: Run[DenoiserTask]) -> Making | None:
    """What --task asks for; None without it.

    Raises UserError for flags and files that do not fit, before anything is computed.
    """
    check_flags()
    if isinstance(run.task, Upscaling) and TASK.value != "upscale":
        raise UserError(
            f"--run={run.folder.path} makes images larger: pass --task=upscale and --init=IMAGES"
        )
    if TASK.value is None:
        return None
    if run.task.space.needs_autoencoder and TASK.value in MEASURED:
        raise UserError(
            f"--task={TASK.value} measures pixels, and this run draws latents: choose another"
        )
    if TASK.value == "direction":
        return _direction(run)
    if TASK.value == "upscale":
        return _enlarging(run)
    form = run.task.image_shape
    measurement = _measurement(TASK.value, form)
    # Images of the coarse size are what is measured, to the pixel.
    coarse = measurement.factor if isinstance(measurement, Coarse) else 1
    pictures = read_pictures(INIT.value, form, coarse)
    if TASK.value == "interpolate" and len(pictures) < 2:
        raise UserError(f"--init={INIT.value} has one image: interpolate between two or more")
    x0 = run.task.x0_of(run.components, pictures)
    if TASK.value == "interpolate":
        return Walk(pictures, x0, _classes(run, x0))
    keep = None
    if TASK.value == "inpaint":
        keep = read_mask("centre" if MASK.value is None else MASK.value, form)
    edit, degraded = _edit(TASK.value, pictures, x0, keep, measurement)
    edit(DDIM(), np.zeros(1, np.int64))
    return Editing(pictures, _classes(run, x0), edit, degraded, keep)


def check_flags() -> None:
    """Raises UserError for flags of another --task, or of one, and for a --task without images."""
    for flag, tasks in OWN:
        if flag.present and TASK.value not in tasks:
            raise UserError(f"--{flag.name} does nothing without --task={' or '.join(tasks)}")
    if TASK.value not in (None, "direction") and INIT.value is None:
        raise UserError(f"--task={TASK.value} needs images: pass --init=FILE or a folder")


def _direction(run: Run[DenoiserTask]) -> Direction:
    """Raises UserError for a run without classes or texts, and without two of them."""
    task = run.task
    if task.condition.classes is None and not task.asks_captions:
        raise UserError(
            "--task=direction leads from a class or text to another, and this run takes neither: "
            "pass a run that does"
        )
    to = guiding.PROMPTS if task.asks_captions else guiding.LABELS
    if guiding.NEGATIVE.value is None or len(to.value or ()) != 1:
        raise UserError(
            f"--task=direction leads from --negative to --{to.name}: give one "
            f"{'text' if task.asks_captions else 'class'} to each"
        )
    pictures = None if INIT.value is None else read_pictures(INIT.value, task.image_shape)
    x0 = None if pictures is None else task.x0_of(run.components, pictures)
    return Direction(pictures, x0, guiding.strengths() or STRENGTHS)


def _enlarging(run: Run[DenoiserTask]) -> Enlarging:
    """Raises UserError for another run, and for images and flags that it cannot serve."""
    task = run.task
    runs.check_kind(run.folder.path, task, Upscaling)
    assert isinstance(task, Upscaling)
    for flag in (guiding.LABELS, guiding.PROMPTS):
        if flag.present:
            raise UserError(f"--{flag.name} does nothing with --task=upscale: leave it out")
    noise, most = NOISE.value or 0.0, task.condition.noise
    if noise > most:
        raise UserError(f"--noise={noise}: the run was trained with {most} at most")
    pictures = read_whole(INIT.value)
    task.condition.asked(pictures, 1)
    return Enlarging(pictures, noise)


def _measurement(task: str, form: tuple[int, int, int]) -> Measurement | None:
    """What is known of an image in place of it. Raises UserError where it is not for the form."""
    if task not in MEASURED:
        return None
    found: Measurement = Grey() if task == "colourise" else Coarse(**_given(factor=FACTOR))
    found.check(form)
    return found


def _edit(
    task: str,
    pictures: Float32[np.ndarray, "P H W C"],
    x0: Float32[np.ndarray, "P h w c"],
    keep: Bool[np.ndarray, "H W 1"] | None,
    measurement: Measurement | None,
) -> tuple[Callable[[Sampler, Int[np.ndarray, "N"]], Edit], Float32[np.ndarray, "P H W C"] | None]:
    """`edit` and `degraded` of the Editing, as the flags would have them."""
    match task:
        case "inpaint":
            assert keep is not None
            whole = jnp.asarray(kept_whole(keep, x0.shape[1:3]))
            again = _given(jump=JUMP, resample=RESAMPLE)

            def inpaint(sampler: Sampler, of: Int[np.ndarray, "N"]) -> Edit:
                known = jnp.asarray(x0[of])
                return Repaint(
                    sampler, known, jnp.broadcast_to(whole, (len(of), *whole.shape)), **again
                )

            return inpaint, np.where(keep, pictures, np.float32(0))
        case "img2img":
            strength = _given(strength=STRENGTH)
            return lambda sampler, of: SDEdit(sampler, jnp.asarray(x0[of]), **strength), None
    assert measurement is not None
    measured = measurement.measure(jnp.asarray(pictures))
    zeta = _given(zeta=ZETA)
    shown = np.asarray(measurement.shown(measured))
    return lambda sampler, of: DPS(sampler, measured[of], measurement, **zeta), shown


def _given(**options: flags.FlagHolder[Any]) -> dict[str, Any]:
    """The flags that are given, or the edit's own defaults hold."""
    return {name: flag.value for name, flag in options.items() if flag.value is not None}


def _classes(
    run: Run[DenoiserTask], x0: Float32[np.ndarray, "P h w c"]
) -> Int[np.ndarray, "P"] | None:
    """The pictures' classes: those of --labels, or what the network takes them for."""
    condition = run.task.condition
    if not isinstance(condition, Classes):
        return None
    if guiding.LABELS.present:
        return condition.labels(guiding.LABELS.value, len(x0))
    return classes_of(run.task, run.components, x0)

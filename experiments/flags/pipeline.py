"""The flags of experiments.sample for a pipeline: Stable Diffusion in diffusers' layout."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from jaxtyping import UInt8

from diffjax.data.images import to_uint8
from diffjax.editing.image_to_image import SDEdit
from diffjax.editing.pictures import read_mask, read_pictures
from diffjax.errors import UserError
from diffjax.pipelines import StableDiffusion, load_pipeline
from diffjax.pipelines.loading import DTYPES
from diffjax.typing import Params
from experiments.flags import edits, guiding, kinds, weak

PIPELINE = kinds.define_path(
    "pipeline", None, "a folder of Stable Diffusion in diffusers' layout, in place of --run"
)
HEIGHT = kinds.define_integer(
    "height", None, "pixels of a pipeline's images; by default what it was trained for", 1
)
WIDTH = kinds.define_integer("width", None, "as --height", 1)
DTYPE = flags.DEFINE_enum(
    "dtype", None, DTYPES,
    "what a pipeline computes in; by default float32 on a CPU and bfloat16 elsewhere",
)  # fmt: skip
flags.DEFINE_alias("prompt", guiding.PROMPTS.name)
flags.DEFINE_alias("negative_prompt", guiding.NEGATIVE.name)
GUIDANCE, STEPS = 7.5, 30  # a pipeline's defaults
OWN = (HEIGHT, WIDTH, DTYPE)
TASKS = ("img2img", "inpaint")
# What only runs are drawn with.
OF_RUNS = (
    guiding.LABELS, guiding.INTERVAL, weak.WEAK, weak.WEAK_STEP, guiding.APG_ETA,
    guiding.APG_THRESHOLD, guiding.PERCENTILE, guiding.JUDGE, guiding.JUDGE_SCALE, guiding.CLIP,
    guiding.CLIP_TEXT, guiding.CLIP_SCALE, edits.JUMP, edits.RESAMPLE, edits.FACTOR, edits.ZETA,
)  # fmt: skip


def check_absent() -> None:
    """Raises UserError for flags of a pipeline where there is none."""
    for flag in OWN:
        if flag.present:
            raise UserError(f"--{flag.name} does nothing without --pipeline")


class Drawn(NamedTuple):
    """Images, the prompt of each, and the U-Net's weights."""

    images: UInt8[np.ndarray, "N H W c"]
    prompts: list[str]
    weights: Params


def draw(num: int | None, **options: Any) -> Drawn:
    """Images of the prompts, in turn.

    num: by default one per prompt, or one per picture of --init where these are more. options: what
    else `StableDiffusion.sample` takes. What the library warns of is printed, one line each. Raises
    UserError for flags that do not go together, before the folder is read.
    """
    _check_flags()
    prompts = guiding.PROMPTS.value or []
    negatives = None if guiding.NEGATIVE.value is None else [guiding.NEGATIVE.value]
    with _warnings_in_lines():
        pipe = load_pipeline(PIPELINE.value, dtype=DTYPE.value)
        edit = _edit(pipe)
        num = num or max(len(prompts), len(edit.get("images", ())))
        texts = [prompts[i % len(prompts)] for i in range(num)]
        if edit:
            edit["images"] = edit["images"][np.arange(num) % len(edit["images"])]
        images = pipe.sample(
            texts, negatives, _guidance(num), rescale=guiding.RESCALE.value,
            height=HEIGHT.value, width=WIDTH.value, **edit, **options,
        )  # fmt: skip
    made = to_uint8(np.asarray(images))
    if "keep" in edit:  # latents keep pixels roughly
        made = np.where(edit["keep"], to_uint8(edit["images"]), made)
    return Drawn(made, texts, pipe.unet_params)


def _check_flags() -> None:
    for flag in OF_RUNS:
        if flag.present:
            raise UserError(f"--{flag.name} is for a --run: leave it out with --pipeline")
    if not guiding.PROMPTS.value:
        raise UserError("--pipeline draws from texts: give --prompt='a text'")
    edits.check_flags()
    if edits.TASK.value not in (None, *TASKS):
        raise UserError(f"--task={edits.TASK.value} is for a --run: choose {' or '.join(TASKS)}")


def _guidance(num: int) -> float | list[float]:
    given = guiding.GUIDANCE
    return guiding.scales_of(given, num).tolist() if given.present else GUIDANCE


def _edit(pipe: StableDiffusion) -> dict[str, Any]:
    """The pictures of --init and what is done to them, as `StableDiffusion.sample` takes it."""
    if edits.TASK.value is None:
        return {}
    form = (*pipe.size(HEIGHT.value, WIDTH.value), pipe.stage.model.in_channels)
    images = read_pictures(edits.INIT.value, form)
    if edits.TASK.value == "inpaint":
        return {"images": images, "keep": read_mask(edits.MASK.value or "centre", form)}
    strength = edits.STRENGTH.value
    return {"images": images, "strength": SDEdit.strength if strength is None else strength}


@contextmanager
def _warnings_in_lines() -> Iterator[None]:
    def say(message: Warning | str, *where: Any, **more: Any) -> None:
        print(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = say
        yield

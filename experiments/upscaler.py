"""Trains a diffusion model that makes images larger, and draws tiles that are held out.

python -m experiments.upscaler --dataset="tfds(name='flowers5')" --factor=4 --tile=64
python -m experiments.sample --run=RUN --task=upscale --init=PICTURES
"""

import dataclasses
import functools

from absl import flags

from diffjax import spec
from diffjax.conditions.low_resolution import LowResolution
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.models.upscaler import Upscaler
from diffjax.tasks.upscaling import Shown, Upscaling
from experiments import ddpm
from experiments.flags import kinds, learning, presets
from experiments.start import command

flags.adopt_module_key_flags(learning)
flags.adopt_module_key_flags(ddpm)
# What a run is, besides ddpm's flags and learning.IDENTITY.
FACTOR = kinds.define_integer("factor", 4, "how much larger images become", lower_bound=2)
TILE = kinds.define_integer(
    "tile", None, "height and width of the parts of images that are learnt, cropped at random; by "
    "default the images' shorter side",
    lower_bound=2,
)  # fmt: skip
NOISE = kinds.define_number(
    "noise", 0.1, "the largest standard deviation of noise on what is made larger, in training", 0
)
OWN = (FACTOR, TILE, NOISE)
presets.define_preset(smoke={"num_samples": 4})


def main() -> None:
    with learning.processes():
        set_defaults()
        ddpm.repeat_course()
        records = learning.open_records()
        task = describe(records)
        shown = Shown(
            **vars(ddpm.pictures(task)), records=learning.open_held_out(), say=learning.say
        )
        learning.train(
            task, records, learning.flags_text("upscaler", (*OWN, *ddpm.OWN)), shown,
            ddpm.SAMPLE_EVERY.value,
            loss=functools.partial(task.loss, remat=ddpm.REMAT.value),
        )  # fmt: skip


def set_defaults() -> None:
    """What this program has other defaults for."""
    for flag, value in ((ddpm.SCHEDULE, "cosine"), (ddpm.TARGET, "v"), (ddpm.NUM_SAMPLES, 16)):
        flags.FLAGS.set_default(flag.name, value)


def describe(records: Records) -> Upscaling:
    """This run's task: the flags, and what follows from the data.

    Raises UserError for a tile that is larger than the images.
    """
    height, width, channels = records.image_shape
    side = TILE.value or min(height, width)
    if side > min(height, width):
        raise UserError(f"--tile={side} does not fit in images of {height}x{width}: choose less")
    form = side, side, channels
    net = ddpm.fitted_model(records, form, {"in_channels": 2 * channels + 1})
    model = Upscaler(spec.render(net), FACTOR.value, channels, side)
    condition = model.takes(ddpm.COND_DROP.value)
    assert isinstance(condition, LowResolution)
    return Upscaling(
        model=model, condition=dataclasses.replace(condition, noise=NOISE.value),
        **{**ddpm.described(records), "image_shape": form},
    )  # fmt: skip


if __name__ == "__main__":
    command.run(main)

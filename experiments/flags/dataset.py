"""Which images are learnt, and in which size."""

import diffjax.data
from experiments.flags import kinds, specs

DATASET = specs.define_spec("dataset", "embedded", diffjax.data, "the images to learn")
IMAGE_SIZE = kinds.define_integer(
    "image_size", None, "crop to a square and resize to this many pixels", lower_bound=1
)

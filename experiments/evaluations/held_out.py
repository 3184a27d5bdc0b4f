"""Real images that are held out of training."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffjax.data import Records
from diffjax.data.iterate import Batch
from diffjax.data.skipping import read_all
from diffjax.errors import UserError, listed
from diffjax.metrics.comparison import LEAST
from diffjax.runs import RunConfig, Training
from diffjax.tasks.denoisers import DenoiserTask
from experiments.flags import kinds

NUM = kinds.define_integer(
    "num", 1000, "images to draw, and as many real ones twice; or real ones whose bits/dim to tell",
    lower_bound=2,
)  # fmt: skip
SEED = kinds.define_seed()
BATCH_SIZE = kinds.define_integer(
    "batch_size", 100, "images at a time; changes memory and speed, not the figures", lower_bound=1
)
DATA_DIR = kinds.define_path("data_dir", None, "where prepared TFDS sets lie")


class Real(NamedTuple):
    """Real images in [-1, 1], and their labels."""

    images: Float[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, "N"]


def open_held_out(config: RunConfig[Any] | Training) -> Records:
    """What a run's data set holds out, in the run's size. Raises UserError where it has none."""
    return config.open("test", DATA_DIR.value)


def read_by(task: DenoiserTask) -> tuple[str, ...]:
    """The parts of a record that a held-out loss reads: images, which a first stage encodes."""
    return ("image", *task.condition.batch_keys)


def of_run(config: RunConfig[Any], keys: tuple[str, ...], most: int | None = None) -> Batch:
    """These parts of images that the run's data set holds out.

    `most` of them, or as many as were asked for, or there are, which it says. Raises UserError for
    fewer than two.
    """
    records = open_held_out(config)
    count = len(records)
    if count < 2:
        raise UserError(f"the run's data set holds out {count} image: 2 or more are needed")
    if most is None and NUM.value > count:
        print(f"--num={NUM.value} is cut to {count}: the run's data set holds out no more")
    order = np.random.default_rng(SEED.value).permutation(count)[: most or NUM.value]
    rows = read_all(records, order.tolist())
    if missing := [key for key in keys if key not in rows[0]]:
        raise UserError(f"the run's loss reads {listed(missing)}, which its data set has none of")
    return {key: np.stack([row[key] for row in rows]) for key in keys}


def affordable(num: int, held_out: int) -> int:
    """As many as were asked for, or as two disjoint sets of real images can have, which it says.

    Raises UserError for too few to be compared.
    """
    if num < LEAST:
        raise UserError(f"--num={num}: sets of {LEAST} images or more can be compared")
    most = held_out // 2
    if most < LEAST:
        raise UserError(f"the judge's data set holds out {held_out} images: {2 * LEAST} are needed")
    if num > most:
        print(f"--num={num} is cut to {most}: the judge's data set holds out {held_out} images")
    return min(num, most)


def halves(records: Records, num: int, seed: int) -> tuple[Real, Real]:
    """Two sets of `num` records without a common one: the reference and, against it, the floor."""
    order = np.random.default_rng(seed).permutation(len(records))
    return read(records, order[:num]), read(records, order[num : 2 * num])


def read(records: Records, indices: Int[np.ndarray, "N"]) -> Real:
    """Those records."""
    rows = read_all(records, indices.tolist())
    return Real(*(np.stack([row[key] for row in rows]) for key in ("image", "label")))

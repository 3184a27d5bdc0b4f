"""The flags that several tasks of experiments.audit share."""

from experiments.flags import kinds

NUM = kinds.define_integer(
    "num", None, "images that are drawn, or told apart; by default 1,000, of robustness 100",
    lower_bound=2,
)  # fmt: skip
SEED = kinds.define_seed()
STEPS = kinds.define_integer("steps", 50, "sampling steps; of a watermark, up and down", 2)
DATA_DIR = kinds.define_path("data_dir", None, "where prepared TFDS sets lie")


def num(default: int) -> int:
    """How many images are asked for."""
    return default if NUM.value is None else NUM.value

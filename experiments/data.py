"""What a run's data set holds out, for the programs that train and those that measure."""

import diffjax.data
from diffjax import spec
from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.training.run import RunConfig


def open_held_out(config: RunConfig, data_dir: str | None) -> Records:
    """The test split of the run's data set, in the run's size. Raises UserError where it has none.

    `data_dir` is where prepared TFDS sets lie.
    """
    training = config.training
    if "dataset" not in training:
        raise UserError(f"a run of experiments.{config.experiment} names no data set to look in")
    dataset = spec.build(training["dataset"], diffjax.data, {"data_dir": data_dir})
    return dataset.open("test", training["image_size"])

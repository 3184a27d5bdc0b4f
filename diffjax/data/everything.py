"""All of another data set to learn from, what it holds out too."""

import dataclasses

import diffjax.data
from diffjax import spec
from diffjax.data.base import Record, Records, Split
from diffjax.data.contents import Contents

__all__ = ["Everything"]


@dataclasses.dataclass(frozen=True)
class Everything:
    """Both splits of the data set `of`, one after the other, as the training split.

    So the course "Generative AI with Diffusion Models" trains: nothing is left to measure on that
    has not been learnt. The test split is as it was.
    """

    of: str
    data_dir: str | None = None

    def open(self, split: Split, image_size: int | None, max_bad_records: int = 0) -> Records:
        """As `diffjax.data.Dataset.open`."""
        dataset = spec.build(self.of, diffjax.data, {"data_dir": self.data_dir})
        test = dataset.open("test", image_size, max_bad_records)
        if split == "test":
            return test
        return Both(dataset.open("train", image_size, max_bad_records), test)


@dataclasses.dataclass(frozen=True, eq=False)
class Both:
    """The records of one split and, after them, of another."""

    first: Records
    second: Records

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.first.image_shape

    @property
    def num_classes(self) -> int | None:
        return self.first.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.first.class_names

    @property
    def contents(self) -> Contents:
        """Nothing is held out of training."""
        own = self.first.contents
        trained = tuple(map(sum, zip(own.trained, own.held_out, strict=True)))
        return Contents(trained, passed_over=own.passed_over)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Record:
        if index < len(self.first):
            return self.first[index]
        return self.second[index - len(self.first)]

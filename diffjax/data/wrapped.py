"""Records whose records are those of another set, changed."""

import abc
import dataclasses
from collections.abc import Sequence

from diffjax.data.bad import BadRecord
from diffjax.data.base import Record, Records
from diffjax.data.contents import Contents
from diffjax.data.skipping import read_all
from diffjax.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Wrapped(abc.ABC):
    """`records`, each as `changed` makes it."""

    records: Records

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.records.image_shape

    @property
    def num_classes(self) -> int | None:
        return self.records.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.records.class_names

    @property
    def contents(self) -> Contents:
        return self.records.contents

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.changed(self.records[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        rows = read_all(self.records, indices)
        return [self.changed(row, index) for row, index in zip(rows, indices, strict=True)]

    @abc.abstractmethod
    def changed(self, record: Record, index: int) -> Record:
        """What stands in the place of a record. Raises BadRecord as `Records` does."""


def without_text(record: Record) -> Record:
    """The record's other parts."""
    return {key: value for key, value in record.items() if key != "text"}


def check_texts(records: Records) -> None:
    """Raises UserError for records without texts; reads the first that is no bad record."""
    for index in range(len(records)):
        try:
            record = records[index]
        except BadRecord:
            continue
        if "text" not in record:
            raise UserError(
                "the data set has no texts: choose one with captions, such as captions",
                option="dataset",
            )
        return

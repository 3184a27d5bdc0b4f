"""Records with what a network is told of them in the place of their texts."""

import dataclasses
from collections.abc import Callable, Sequence

from diffjax.data.base import Record, Records
from diffjax.data.contents import Contents
from diffjax.data.skipping import read_all


@dataclasses.dataclass(frozen=True, eq=False)
class ToldRecords:
    """`records` with the parts that `told` has of each index, in the place of `text`."""

    records: Records
    told: Callable[[int], Record]

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
        return self._with(self.records[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        rows = read_all(self.records, indices)
        return [self._with(row, index) for row, index in zip(rows, indices, strict=True)]

    def _with(self, record: Record, index: int) -> Record:
        rest = {key: value for key, value in record.items() if key != "text"}
        return {**rest, **self.told(index)}

"""Records with what a network is told of them in the place of their texts."""

import dataclasses
from collections.abc import Callable

from diffjax.data.base import Record
from diffjax.data.wrapped import Wrapped, without_text


@dataclasses.dataclass(frozen=True, eq=False)
class ToldRecords(Wrapped):
    """`records` with the parts that `told` has of each index, in the place of `text`."""

    told: Callable[[int], Record]

    def changed(self, record: Record, index: int) -> Record:
        return {**without_text(record), **self.told(index)}

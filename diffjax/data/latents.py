"""Records with a first stage's posterior in the place of their images, all in memory."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from diffjax.data.bad import BadRecord
from diffjax.data.base import Record
from diffjax.data.wrapped import Wrapped

MOMENTS = "moments"


@dataclasses.dataclass(frozen=True, eq=False)
class LatentRecords(Wrapped):
    """`records` with `moments`, mean and log-variance along the last axis, in place of `image`.

    good: which records could be read. others: the records' other parts. No image is read again.
    """

    moments: Float[np.ndarray, "N h w m"]
    good: Bool[np.ndarray, "N"]
    others: Mapping[str, np.ndarray]

    def __getitem__(self, index: int) -> Record:
        return self.changed({}, index)

    def __getitems__(self, indices: Sequence[int]) -> list[Record]:
        return [self[index] for index in indices]

    def changed(self, record: Record, index: int) -> Record:
        if not self.good[index]:
            raise BadRecord(f"record {index} has no latents", "mend it")
        others = {name: rows[index] for name, rows in self.others.items()}
        return {MOMENTS: self.moments[index], **others}

"""Reading on past records that are damaged."""

import sys
from collections.abc import Iterator, Sequence

from diffjax.data.bad import BadRecord, Tally
from diffjax.data.base import Record, Records
from diffjax.errors import UserError


def read_all(records: Records, indices: Sequence[int]) -> Sequence[Record]:
    """The records of these indices, read at once where the set can."""
    if hasattr(records, "__getitems__"):
        return records.__getitems__(indices)
    return [records[index] for index in indices]


class Skipping:
    """Called as `read_all`, gives for a bad record the next by index, from the last to the first.

    What stands in follows from the data alone, so it is the same for every batch size, number of
    processes and point of resuming. A bad record is named on stderr when it is first met.
    """

    def __init__(self, records: Records, max_bad_records: int) -> None:
        self._records = records
        self._tally = Tally(max_bad_records)

    def __call__(self, indices: Sequence[int]) -> Sequence[Record]:
        """Raises UserError for one bad record too many, and where no record can be read."""
        indices = [next(self._from(index)) for index in indices]
        try:
            return read_all(self._records, indices)
        except BadRecord:  # which one it is shows when they are read one by one
            return [self._read(index) for index in indices]

    def _read(self, index: int) -> Record:
        for candidate in self._from(index):
            try:
                return self._records[candidate]
            except BadRecord as error:
                if line := self._tally.add(candidate, error):
                    print(line, file=sys.stderr, flush=True)
        raise AssertionError("unreachable: _from ends with an error")

    def _from(self, start: int) -> Iterator[int]:
        """The indices not known to be bad, from `start` on and around."""
        count = len(self._records)
        for place in range(start, start + count):
            if place % count not in self._tally:
                yield place % count
        raise UserError(f"none of the {count} records can be read: replace the data")
